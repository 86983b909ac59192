"""Which learning rate and weight decay does each init mode like? The paper's Fig. 11 and Table 1."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ..errors import SubcloningError
from .arms import BASELINE, REFERENCE, known
from .speedup import SETTING, best_settings, run_of, settings
from .study import Study
from .style import figure, plain_log

Dash = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


T = TypeVar("T")


def effort(grid: pd.DataFrame, init: str, lr: float, weight_decay: float) -> str:
    """How an arm's setting was found in `grid`: `15 x 4` for the best of 15 settings, each tried on four seeds.

    Says also how many settings were tried on fewer seeds, whether the seeds differed, and whether the chosen learning
    rate is the highest or the lowest that was tried.
    """
    own = grid[grid["init"] == init]
    seeds: dict[Any, frozenset] = {
        s: frozenset(runs[run_of(runs)].itertuples(index=False)) for s, runs in own.groupby(SETTING[1:])
    }
    if (lr, weight_decay) not in seeds:
        return "not tried"
    chosen = len(seeds[lr, weight_decay])
    fewer = sum(len(used) < chosen for used in seeds.values())
    text = [f"{len(seeds) - fewer} x {chosen}"]
    text += [f"{fewer} more on fewer seeds"] if fewer else []
    text += ["on different seeds"] if len({used for used in seeds.values() if len(used) == chosen}) > 1 else []
    tried = own["lr"]
    if tried.nunique() > 1 and lr in (tried.min(), tried.max()):
        text.append("lowest LR" if lr == tried.min() else "highest LR")
    return ", ".join(text)


def effort_text(efforts: Iterable[str]) -> str:
    """What a column of `effort` means."""
    efforts = list(efforts)
    edges = sum(text.endswith(" LR") for text in efforts)
    return (
        "Tuning: settings of learning rate and weight decay that were tried x seeds; more of them are an advantage. "
        f"{edges or 'None'} of {len(efforts)} arms chose the lowest or highest learning rate that was tried."
    )


def dashed(kinds: Sequence[T]) -> dict[T, Dash]:
    """A line style for each of `kinds`. Raises SubcloningError where there are too few."""
    if len(kinds) > len(DASHES):
        raise SubcloningError(
            f"{len(kinds)} kinds of lines, {', '.join(map(str, kinds))}: there are {len(DASHES)} styles, add to DASHES "
            "in analysis/tuning.py"
        )
    return dict(zip(kinds, DASHES, strict=False))


def tuning_table(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What the study is tuned for by init mode and weight decay (rows) and learning rate (columns), best in bold.

    Means over seeds: the time to the early target, or the final value.
    """
    name = study.tuned_for
    values, best = settings(grid, study).set_index(SETTING)[name], best_settings(grid, study)
    rows = []
    for init in (arm.name for arm in known(best.index)):
        for decay in sorted(grid["weight_decay"].unique()):
            row = {"init": init, "WD": f"{decay:g}"}
            for lr in sorted(grid["lr"].unique()):
                value = values.get((init, lr, decay))
                if value is None:
                    text = ""
                elif not np.isfinite(value):
                    text = "diverged" if name == "final" else f"> {study.time_text(grid[study.time].max(), digits=0)}"
                else:
                    text = study.time_text(value) if name == "time" else study.quality_text(value)
                winner = (lr, decay) == tuple(best.loc[init, ["lr", "weight_decay"]])
                row[f"LR {lr:g}"] = f"**{text}**" if winner else text
            rows.append(row)
    return pd.DataFrame(rows)


def tuning_figure(grid: pd.DataFrame, study: Study) -> Figure:
    """Validation loss at the end over learning rate, a line for each weight decay; mean over seeds and their range.

    Of random, subclone and principal alone, since more would hide each other; the table has all.
    """
    fig, (ax,) = figure()
    decays = sorted(grid["weight_decay"].unique())
    dashes = dashed(decays)
    best = best_settings(grid, study)
    ends = grid[grid[study.time] == grid[study.time].max()].groupby(SETTING)["val_loss"]
    last = pd.DataFrame({name: ends.agg(name, skipna=False) for name in ("mean", "min", "max")}).reset_index()
    shown = [arm for arm in known(best.index) if arm.name in (BASELINE, REFERENCE, "principal")]
    for init, colour in ((arm.name, arm.ink) for arm in shown):
        own, chosen = last[last["init"] == init], best.loc[init]
        for decay, dash in dashes.items():
            line = own[own["weight_decay"] == decay]
            ax.plot(line["lr"], line["mean"], dash, color=colour, marker=".", markersize=4)
            ax.fill_between(line["lr"], line["min"], line["max"], color=colour, alpha=0.12, linewidth=0)
        star = own[(own["lr"] == chosen["lr"]) & (own["weight_decay"] == chosen["weight_decay"])]
        ax.plot(star["lr"], star["mean"], "*", color=colour, markersize=9)
    ax.set(xscale="log", xlabel="learning rate", ylabel="validation loss at the end")
    plain_log(ax.yaxis)
    rates = sorted(grid["lr"].unique())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.set_minor_locator(NullLocator())
    keys = [Line2D([], [], color=arm.ink, label=arm.label) for arm in shown]
    keys += [Line2D([], [], color="0.6", linestyle=dash, label=f"WD {decay:g}") for decay, dash in dashes.items()]
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
    """Table 1 of the paper, and the same of ours: the best learning rate and weight decay of each, and how sought."""
    rows = [(*row, "-") for row in PAPER]
    for name, (grid, study) in grids.items():
        best = best_settings(grid, study)
        for init in (BASELINE, REFERENCE):
            setting = best.loc[init, ["lr", "weight_decay"]]
            rows.append((name, init, *setting, effort(grid, init, *setting)))
    return pd.DataFrame(
        [(name, init, f"{lr:g}", f"{wd:g}", sought) for name, init, lr, wd, sought in rows],
        columns=["task", "init", "LR", "WD", "tuning"],
    )
