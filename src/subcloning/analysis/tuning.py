"""Which learning rate and weight decay does each init mode like? The paper's Fig. 11 and Table 1."""

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from .convergence import quality_text, time_text
from .speedup import SETTING, Study, best_settings, final, times_to_target
from .style import COLOURS, LABELS, figure, plain_log

DASHES = ("-", "--", ":", "-.")


def tuning_table(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What the study is tuned for by init mode and weight decay (rows) and learning rate (columns), best in bold.

    Means over seeds: the time to the early target, or the final value.
    """
    by_time = study.tuned_for == "time"
    values = times_to_target(grid, study, study.target) if by_time else final(grid, study)
    values, best = values.groupby(SETTING).mean(), best_settings(grid, study)
    rows = []
    for init in [name for name in LABELS if name in best.index]:
        for decay in sorted(grid["weight_decay"].unique()):
            row = {"init": init, "WD": f"{decay:g}"}
            for lr in sorted(grid["lr"].unique()):
                value = values.get((init, lr, decay))
                if value is None:
                    text = ""
                elif value == float("inf"):
                    text = f"> {time_text(grid[study.time].max(), study, digits=0)}"
                else:
                    text = time_text(value, study) if by_time else quality_text(value, study)
                winner = (lr, decay) == tuple(best.loc[init, ["lr", "weight_decay"]])
                row[f"LR {lr:g}"] = f"**{text}**" if winner else text
            rows.append(row)
    return pd.DataFrame(rows)


def tuning_figure(grid: pd.DataFrame, study: Study):
    """Validation loss at the end over learning rate, a line for each weight decay; mean over seeds and their range."""
    fig, (ax,) = figure()
    decays = sorted(grid["weight_decay"].unique())
    best = best_settings(grid, study)
    last = grid[grid[study.time] == grid[study.time].max()].groupby(SETTING)["val_loss"].agg(["mean", "min", "max"])
    inits = [name for name in ("random", "subclone", "principal") if name in best.index]
    for init in inits:
        for decay, dash in zip(decays, DASHES, strict=False):
            line = last.loc[init].xs(decay, level="weight_decay") if decay in last.loc[init].index.levels[1] else None
            if line is None or line.empty:
                continue
            ax.plot(line.index, line["mean"], dash, color=COLOURS[init], marker=".", markersize=4)
            ax.fill_between(line.index, line["min"], line["max"], color=COLOURS[init], alpha=0.12, linewidth=0)
        chosen = tuple(best.loc[init, ["lr", "weight_decay"]])
        ax.plot(chosen[0], last.loc[(init, *chosen), "mean"], "*", color=COLOURS[init], markersize=9)
    ax.set(xscale="log", xlabel="learning rate", ylabel="validation loss at the end")
    plain_log(ax.yaxis)
    rates = sorted(grid["lr"].unique())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.set_minor_locator(NullLocator())
    keys = [Line2D([], [], color=COLOURS[init], label=LABELS[init]) for init in inits]
    dashes = zip(decays, DASHES, strict=False)
    keys += [Line2D([], [], color="0.6", linestyle=dash, label=f"WD {decay:g}") for decay, dash in dashes]
    ax.legend(handles=keys, fontsize=6, ncols=2)
    return fig


# The paper's Table 1: task, init, learning rate, weight decay.
PAPER = (
    ("ViT, ImageNet (paper)", "random", 0.002, 0.2),
    ("ViT, ImageNet (paper)", "subclone", 0.0001, 0.005),
    ("GPT-2, Pile (paper)", "random", 0.0001, 0.1),
    ("GPT-2, Pile (paper)", "subclone", 0.0001, 0.001),
)


def best_table(grids: dict[str, tuple[pd.DataFrame, Study]]) -> pd.DataFrame:
    """Table 1 of the paper, and the same of ours: the best learning rate and weight decay of each."""
    rows = [*PAPER]
    for name, (grid, study) in grids.items():
        best = best_settings(grid, study)
        rows += [(name, init, *best.loc[init, ["lr", "weight_decay"]]) for init in ("random", "subclone")]
    return pd.DataFrame(
        [(name, init, f"{lr:g}", f"{wd:g}") for name, init, lr, wd in rows], columns=["task", "init", "LR", "WD"]
    )
