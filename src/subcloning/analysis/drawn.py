"""Do findings hold for other parents by the same recipe? Children of several, each with seeds of its own."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .arms import ARMS, known
from .comparisons import judged
from .intervals import between, difference
from .speedup import arms, faster, final, limits, needed, setting_of, times_to_target
from .study import Study
from .style import error_bars, figure, plain_log
from .text import drawn_text, mean_text, ratio_text, reached_text
from .tuning import effort


def over_parents(runs: pd.DataFrame, study: Study, reference: str) -> pd.DataFrame:
    """Each arm in `runs` against `reference`, run by run, on several parents (a column `parent`).

    Columns: init, lr, weight_decay, drawn (parents and seeds), as text time (to the early target) and final; sooner and
    better, in favour of the arm, which are `Interval`s over parents; sooner_between and better_between, the shares of
    the variance of single runs' differences that lie between parents; and `gains`, each parent's mean difference at
    the end.
    """
    parts = arms(runs, study)
    other = needed(parts, reference)
    ends, times = study.sign * final(other, study), _logs(other, study)
    rows = []
    for init in (arm.name for arm in known(set(parts)) if arm.name != reference):
        arm = parts[init]
        gains = study.sign * final(arm, study) - ends
        rows.append(
            {
                "init": init,
                **setting_of(arm),
                "drawn": drawn_text(arm),
                "time": reached_text(arm, study, study.target),
                "final": mean_text(final(arm, study), study),
                "sooner": faster(arm, other, study, study.target),
                "sooner_between": between(times - _logs(arm, study)),
                "better": difference(study.sign * final(arm, study), ends),
                "better_between": between(gains),
                "gains": gains.groupby(level=0).mean(),
            }
        )
    return pd.DataFrame(rows)


def _logs(arm: pd.DataFrame, study: Study) -> pd.Series:
    """Of the times to the early target, which count from the first step to the end of training."""
    return np.log(times_to_target(arm, study, study.target).clip(*limits(arm, study)))


def parents_table(runs: pd.DataFrame, study: Study, reference: str, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`over_parents` as text."""
    rows = [
        {
            "init": f"`{row['init']}`",
            "LR": f"{row['lr']:g}",
            "tuning": "" if grid is None else effort(grid, row["init"], row["lr"], row["weight_decay"]),
            "parents x seeds": row["drawn"],
            f"to {study.target_text}": row["time"],
            f"times as fast as {reference}": ratio_text(row["sooner"]),
            "between parents": _share(row["sooner_between"]),
            "at the end": row["final"],
            **judged(row["better"], study),
            "between parents ": _share(row["better_between"]),
        }
        for row in over_parents(runs, study, reference).to_dict("records")
    ]
    return pd.DataFrame(rows).drop(columns=["tuning"] if grid is None else [])


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "-"


def parents_figure(runs: pd.DataFrame, study: Study, reference: str) -> Figure:
    """Each arm against `reference`: the interval over parents, and of the end a dot for each parent."""
    table = over_parents(runs, study, reference).iloc[::-1].reset_index(drop=True)
    ink = ARMS[reference].ink
    fig, (left, right) = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.25 * len(table))
    error_bars(left, table["sooner"], table.index, ink)
    error_bars(right, table["better"], table.index, ink, study.factor)
    for at, gains in zip(table.index, table["gains"], strict=True):
        right.plot(study.factor * gains, [at - 0.25] * len(gains), "o", color="0.5", markersize=2)
    for ax in (left, right):
        ax.set_ylim(-0.6, len(table) - 0.4)
    left.set_yticks(table.index, [ARMS[init].label for init in table["init"]])
    right.set_yticks([])
    plain_log(left.xaxis)
    left.set(xlabel=f"times as fast as {reference} to {study.target_text}")
    right.set(xlabel=f"{study.unit} better than {reference} at the end")
    return fig
