"""What decides which learning rate children like? Grids over rates in several cases (Fig. 11)."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from .arms import known
from .speedup import best_settings
from .study import Study
from .style import figure, plain_log
from .tuning import dashed


def named(grid: pd.DataFrame, study: Study) -> dict[str, str]:
    """What tables call each case of `grid`: its length where all differ, in order, else its own name."""
    lengths = grid.groupby("case", sort=False)[study.time].max()
    if lengths.nunique() < len(lengths):
        return {str(case): str(case).replace("_", " ") for case in lengths.index}
    unit = " epochs" if study.time == "epoch" else ""  # tokens say `k`
    return {
        str(case): f"{study.time_text(float(length), digits=0)}{unit}" for case, length in lengths.sort_values().items()
    }


def rates_table(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The best learning rate of each arm in each case, by the end; where that is; and the rates that were tried."""
    study = replace(study, tuned_for="final")  # times of several cases are not comparable
    rows = []
    for case, name in named(grid, study).items():
        own = grid[grid["case"] == case].drop(columns="case")
        best = best_settings(own, study, drop_fewer=True)
        for init in (arm.name for arm in known(best.index)):
            tried = sorted(own.loc[own["init"] == init, "lr"].unique())
            lr, end = (float(best[column].to_dict()[init]) for column in ("lr", "final"))
            cells = {"best LR": f"{lr:g}", "tried": ", ".join(f"{lr:g}" for lr in tried)}
            rows.append({"case": name, "init": f"`{init}`", **cells, "at the end": study.quality_text(end)})
    return pd.DataFrame(rows)


def rates_figure(grids: dict[str, pd.DataFrame], study: Study) -> Figure:
    """Validation loss at the end over the learning rate: a panel for each grid, a line for each arm and case.

    grids: title -> runs with a column `case`. Means over seeds; a star is the rate that ends best (`rates_table`).
    """
    study = replace(study, tuned_for="final")
    fig, axes = figure(columns=min(2, len(grids)), panels=len(grids))
    for ax, (title, grid) in zip(axes, grids.items(), strict=True):
        shown, names = known(grid["init"]), named(grid, study)
        dashes = dashed([*names])
        for case, dash in dashes.items():
            runs = grid[grid["case"] == case].drop(columns="case")
            best = best_settings(runs, study, drop_fewer=True)["lr"]
            last = runs[runs[study.time] == runs[study.time].max()].groupby(["init", "lr"])["val_loss"].mean()
            for arm in (arm for arm in shown if arm.name in best):
                line = last[arm.name]
                ax.plot(line.index, line, dash, color=arm.ink, marker=".", markersize=4)
                ax.plot(best[arm.name], line[best[arm.name]], "*", color=arm.ink, markersize=9)
        plain_log(ax.yaxis)
        rates = sorted(grid["lr"].unique())
        ax.set(xscale="log", xlabel="learning rate", title=title)
        named_rates = rates[::-2] if len(rates) > 6 else rates
        ax.set_xticks(named_rates, [f"{rate:g}" for rate in named_rates], fontsize=6)
        ax.xaxis.set_minor_locator(NullLocator())
        keys = [Line2D([], [], color=arm.ink, label=arm.label) for arm in shown]
        keys += [Line2D([], [], color="0.6", linestyle=dash, label=names[case]) for case, dash in dashes.items()]
        ax.legend(handles=keys, fontsize=6, ncol=2 if len(keys) > 4 else 1, handlelength=1.6, columnspacing=1)
    axes[0].set(ylabel="validation loss at the end")
    return fig
