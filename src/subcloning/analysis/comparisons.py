"""What makes subcloning work? Each control against the full method (experiments/controls)."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..errors import SubcloningError
from .intervals import difference
from .speedup import arms, faster, final, mean_final
from .study import Study
from .style import COLOURS, error_bars, figure, known, plain_log
from .text import gain_scale, gain_text, mean_text, quality_text, ratio_text, reached_text
from .tuning import effort

REFERENCE = "subclone"
# Question -> init mode -> what figures and tables call it.
CONTROLS = {
    "units": {
        "subclone_no_reordering": "the first",
        "uniform": "evenly spaced",
        "random_subset": "random",
        "least_important": "least important",
        "inconsistent": "anew for each tensor",
    },
    "score": {
        "score_rms": "root mean square",
        "score_variance": "variance",
        "score_taylor": "Taylor",
        "score_activation": "after activation",
        "score_branch": "of the branches",
        "score_normalised": "equal votes",
    },
    "ranked axis": {
        "important_residual_only": "residual only",
        "important_head_only": "heads only",
        "important_hidden_only": "hidden units only",
    },
    "blocks lost": {
        "lose_first_blocks": "the first",
        "lose_last_blocks": "the last",
        "lose_uniform_blocks": "evenly spaced",
        "lose_least_blocks": "least influential",
    },
    "scale": {
        "subclone_no_scaling": "none",
        "subclone_head_unscaled": "none, tied head",
        "scale_measured": "measured",
    },
    "kept": {
        "embeddings_only": "outside the blocks",
        "blocks_only": "the blocks",
        "shuffled": "values, not wiring",
        "spread_only": "spread of values",
        "principal_spread_only": "spread of principal",
        "random": "nothing",
    },
    "directions": {
        "principal": "principal",
        "principal_uniform": "principal, even units",
        "principal_activation": "principal, after act.",
        "principal_taylor": "principal, Taylor",
        "principal_no_scaling": "principal, no scaling",
        "principal_uniform_blocks": "principal, evenly spaced",
    },
    "re-fitted": {
        "subclone_refit": "subclone",
        "principal_refit": "principal",
        "principal_taylor_refit": "principal, Taylor",
    },
}


def comparisons(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each control in `runs` against `subclone`, seed by seed: the same seed means the same data in the same order.

    Columns: question, init, label, lr, weight_decay, tuning (`effort` in `grid`; "" without one), seeds (that both arms
    have), sooner (at the early target) and better (at the end, in favour of the control), which are `Interval`s, and as
    text time (to the early target), caught_up (to the mean of subclone's final values) and final. Raises
    SubcloningError if `runs` has an init mode that is neither `subclone` nor in `CONTROLS`, or lacks `subclone`.
    """
    parts = arms(runs, study)
    if REFERENCE not in parts:
        raise SubcloningError(f"no runs with init={REFERENCE}, which the others are compared with: run them too")
    labels = {init: (question, label) for question, named in CONTROLS.items() for init, label in named.items()}
    present = known(set(parts) - {REFERENCE}, labels, "CONTROLS in analysis/comparisons.py")
    reference = parts[REFERENCE]
    ends, goal = study.sign * final(reference, study), mean_final(reference, study)
    rows = []
    for init in present:
        arm, (question, label) = parts[init], labels[init]
        last = final(arm, study)
        setting = arm[["lr", "weight_decay"]].iloc[0].to_dict()
        rows.append(
            {
                "question": question,
                "init": init,
                "label": label,
                **setting,
                "tuning": "" if grid is None else effort(grid, init, **setting),
                "seeds": len(last.index.intersection(ends.index)),
                "time": reached_text(arm, study, study.target),
                "caught_up": reached_text(arm, study, goal),
                "final": mean_text(last, study),
                "sooner": faster(arm, reference, study, study.target),
                "better": difference(study.sign * last, ends),
            }
        )
    return pd.DataFrame(rows)


def controls_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`comparisons` as text. The last column says what the interval at the end says: better, worse, or open."""
    target = quality_text(study.target, study, digits=0)
    rows = [
        {
            "which": row.question,
            "instead": row.label,
            "init": f"`{row.init}`",
            "LR": f"{row.lr:g}",
            "tuning": row.tuning,
            "seeds": row.seeds,
            f"to {target}": row.time,
            "times as fast": ratio_text(row.sooner),
            "to subclone's end": row.caught_up,
            "at the end": row.final,
            f"{gain_scale(study)[0]} better": gain_text(row.better, study),
            "": row.better.verdict,
        }
        for row in comparisons(runs, study, grid).itertuples()
    ]
    return pd.DataFrame(rows).drop(columns=["tuning"] if grid is None else [])


def controls_figure(runs: pd.DataFrame, study: Study):
    """Each control against subclone, with intervals: how much sooner at the early target, and better at the end."""
    table = comparisons(runs, study).iloc[::-1].reset_index(drop=True)
    fig, (left, right) = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.15 * len(table))
    unit, scale, _ = gain_scale(study)
    for ax, name, factor in ((left, "sooner", 1), (right, "better", scale)):
        # What never gets there, or is there before training, has one end of an interval only, and is not shown.
        shown = table if name == "better" else table[[not interval.bound for interval in table[name]]]
        error_bars(ax, shown.index, shown[name], factor, COLOURS[REFERENCE])
        ax.axvline(1 if name == "sooner" else 0, color="0.6", linewidth=0.6, linestyle=":")
        ax.set_ylim(-0.6, len(table) - 0.4)
        for edge in np.flatnonzero(table["question"].ne(table["question"].shift()))[1:]:
            ax.axhline(edge - 0.5, color="0.85", linewidth=0.5)
    left.set_yticks(table.index, table["question"] + ": " + table["label"])
    right.set_yticks([])
    plain_log(left.xaxis)
    right.xaxis.set_major_locator(MaxNLocator(5))
    kind = "" if study.sign > 0 else "perplexity "
    left.set(xlabel=f"times as fast as subclone to {kind}{quality_text(study.target, study, digits=0)}")
    right.set(xlabel=f"{unit} better than subclone at the end")
    return fig
