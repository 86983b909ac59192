"""What makes subcloning work? Each control against the full method (experiments/controls)."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ..axes import SubcloningError
from .convergence import quality_text, time_text
from .speedup import Study, difference, final, speed_up, times_to_target
from .style import COLOURS, figure, plain_log

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
        "lose_spread_blocks": "spread",
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
        "principal_spread_blocks": "principal, spread",
    },
    "re-fitted": {
        "subclone_refit": "subclone",
        "principal_refit": "principal",
        "principal_taylor_refit": "principal, Taylor",
    },
}


def comparisons(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Each control in `runs` against `subclone`, seed by seed: the same seed means the same data in the same order.

    Columns: question, init, label, lr, weight_decay, seeds, time (median, to the early target), caught_up (median, to
    the median of subclone's final values), sooner, final (mean), better. `sooner`, a ratio of times, and `better`,
    the difference at the end in favour of the control, have their 95 % intervals in _low and _high. Raises
    SubcloningError if `runs` has an init mode that is neither `subclone` nor in `CONTROLS`.
    """

    def of(series, init):
        return series.xs(init, level="init").droplevel(["lr", "weight_decay"])

    known = {REFERENCE, *(init for labels in CONTROLS.values() for init in labels)}
    if unknown := set(runs["init"]) - known:
        raise SubcloningError(f"runs of {sorted(unknown)}, which no question of CONTROLS asks for: add them there")
    times, last = times_to_target(runs, study, study.target), final(runs, study)
    catching_up = times_to_target(runs, study, of(last, REFERENCE).median())
    rows = []
    for question, labels in CONTROLS.items():
        for init, label in labels.items():
            if init not in set(runs["init"]):
                continue
            arm = runs[runs["init"] == init].iloc[0]
            sooner = speed_up(of(times, REFERENCE), of(times, init))
            better = difference(study.sign * of(last, init), study.sign * of(last, REFERENCE))
            rows.append(
                {
                    "question": question,
                    "init": init,
                    "label": label,
                    "lr": arm["lr"],
                    "weight_decay": arm["weight_decay"],
                    "seeds": len(of(last, init)),
                    "time": of(times, init).median(),
                    "caught_up": of(catching_up, init).median(),
                    "final": of(last, init).mean(),
                    **dict(zip(("sooner", "sooner_low", "sooner_high"), sooner, strict=True)),
                    **dict(zip(("better", "better_low", "better_high"), better, strict=True)),
                }
            )
    return pd.DataFrame(rows)


def controls_table(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`comparisons` as text. The last column says what the interval at the end says: better, worse, or open."""
    unit, scale, digits = ("points", 100, 1) if study.sign > 0 else ("nats", 1, 3)
    rows = []
    for row in comparisons(runs, study).itertuples():
        better, low, high = (f"{scale * x:+.{digits}f}" for x in (row.better, row.better_low, row.better_high))
        target = quality_text(study.target, study, digits=0)
        times = f"{row.sooner:.2f} [{row.sooner_low:.2f}, {row.sooner_high:.2f}]" if np.isfinite(row.sooner) else "-"
        rows.append(
            {
                "which": row.question,
                "instead": row.label,
                "init": f"`{row.init}`",
                "LR": f"{row.lr:g}",
                "seeds": row.seeds,
                f"to {target}": time_text(row.time, study) if np.isfinite(row.time) else "never",
                "times as fast": times if row.sooner else "-",
                "to subclone's end": time_text(row.caught_up, study) if np.isfinite(row.caught_up) else "never",
                "at the end": quality_text(row.final, study),
                f"{unit} better": f"{better} [{low}, {high}]",
                "": "better" if row.better_low > 0 else "worse" if row.better_high < 0 else "open",
            }
        )
    return pd.DataFrame(rows)


def controls_figure(runs: pd.DataFrame, study: Study):
    """Each control against subclone, with intervals: how much sooner at the early target, and better at the end."""
    table = comparisons(runs, study).iloc[::-1].reset_index(drop=True)
    fig, (left, right) = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.15 * len(table))
    scale = 100 if study.sign > 0 else 1
    reached = table[np.isfinite(table["sooner_high"]) & (table["sooner_low"] > 0)]
    for ax, part, name, unit in ((left, reached, "sooner", 1), (right, table, "better", scale)):
        value, low, high = (unit * part[key] for key in (name, f"{name}_low", f"{name}_high"))
        bars = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
        ax.errorbar(value, part.index, xerr=bars, fmt=".", color=COLOURS[REFERENCE], linewidth=1, markersize=5)
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
    right.set(xlabel=f"{'points' if scale == 100 else 'nats'} better than subclone at the end")
    return fig
