"""What makes subcloning work? Each control against the full method (experiments/controls)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .arms import ARMS, REFERENCE, by_question
from .intervals import Interval, difference
from .speedup import arms, faster, final, mean_final, needed, setting_of
from .study import Study
from .style import error_bars, figure, plain_log
from .text import mean_text, ratio_text, reached_text
from .tuning import effort


def comparisons(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each control in `runs` against `subclone`, seed by seed: the same seed means the same data in the same order.

    Columns: question, init, answer, lr, weight_decay, tuning (`effort` in `grid`; "" without one), seeds (that both
    arms have), sooner (at the early target) and better (at the end, in favour of the control), which are `Interval`s,
    and as text time (to the early target), caught_up (to the mean of subclone's final values) and final. Raises
    SubcloningError if `runs` has an init mode that is unknown or answers no question, or lacks `subclone`.
    """
    parts = arms(runs, study)
    reference = needed(parts, REFERENCE)
    ends, goal = study.sign * final(reference, study), mean_final(reference, study)
    rows = []
    for control in by_question(set(parts) - {REFERENCE}):
        arm = parts[control.name]
        last = final(arm, study)
        setting = setting_of(arm)
        rows.append(
            {
                "question": control.question,
                "init": control.name,
                "answer": control.answer,
                **setting,
                "tuning": "" if grid is None else effort(grid, control.name, **setting),
                "seeds": len(last.index.intersection(ends.index)),
                "time": reached_text(arm, study, study.target),
                "caught_up": reached_text(arm, study, goal),
                "final": mean_text(last, study),
                "sooner": faster(arm, reference, study, study.target),
                "better": difference(study.sign * last, ends),
            }
        )
    return pd.DataFrame(rows)


def judged(gain: Interval, study: Study) -> dict[str, str]:
    """Two cells of a table: how much better, and what the interval says of that: better, worse, or open."""
    return {f"{study.unit} better": study.gain_text(gain), "": gain.verdict}


def controls_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`comparisons` as text."""
    rows = [
        {
            "which": row["question"],
            "instead": row["answer"],
            "init": f"`{row['init']}`",
            "LR": f"{row['lr']:g}",
            "tuning": row["tuning"],
            "seeds": row["seeds"],
            f"to {study.target_text}": row["time"],
            "times as fast": ratio_text(row["sooner"]),
            "to subclone's end": row["caught_up"],
            "at the end": row["final"],
            **judged(row["better"], study),
        }
        for row in comparisons(runs, study, grid).to_dict("records")
    ]
    return pd.DataFrame(rows).drop(columns=["tuning"] if grid is None else [])


def controls_figure(runs: pd.DataFrame, study: Study) -> Figure:
    """Each control against subclone, with intervals: how much sooner at the early target, and better at the end."""
    table = comparisons(runs, study).iloc[::-1].reset_index(drop=True)
    fig, (left, right) = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.15 * len(table))
    for ax, name, factor in ((left, "sooner", 1), (right, "better", study.factor)):
        error_bars(ax, table[name], table.index, ARMS[REFERENCE].ink, factor)
        ax.set_ylim(-0.6, len(table) - 0.4)
        for edge in np.flatnonzero(table["question"].ne(table["question"].shift()))[1:]:
            ax.axhline(edge - 0.5, color="0.85", linewidth=0.5)
    left.set_yticks(table.index, table["question"] + ": " + table["answer"])
    right.set_yticks([])
    plain_log(left.xaxis)
    right.xaxis.set_major_locator(MaxNLocator(5))
    left.set(xlabel=f"times as fast as subclone to {study.target_text}")
    right.set(xlabel=f"{study.unit} better than subclone at the end")
    return fig
