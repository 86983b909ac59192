"""When does it pay? Random, subcloned and principal children over shapes, budgets and parents (experiments/gaps)."""

import numpy as np
import pandas as pd

from .controls import REFERENCE, comparisons
from .convergence import quality_text
from .speedup import Study, final
from .style import COLOURS, LABELS, figure

# Case -> what tables and figures call it.
CASES = {
    "three_quarters_width": "3/4 width",
    "two_thirds_width": "2/3 width",
    "half_width": "1/2 width",
    "third_width": "1/3 width",
    "quarter_width": "1/4 width",
    "half_width_half_depth": "1/2 width and depth",
    "three_quarters_width_2_blocks": "3/4 width, 1/3 depth",
    "two_thirds_width_3_blocks": "2/3 width, 1/2 depth",
    "five_sixths_width_2_blocks": "5/6 width, 1/3 depth",
    "full_width_1_block": "whole width, 1/6 depth",
    "quarter_budget": "1/4 budget",
    "fourfold_budget": "4 x budget",
    "middle_parent": "quarter-trained parent",
    "early_parent": "early parent",
    "random_parent": "random parent",
    "distilled": "distilled, same time",
}
OTHER_PARENTS = ("middle_parent", "early_parent", "random_parent")  # in all else as the study itself


def every_case(controls: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """`cases`, and what is missing there: half width, from `controls`, and its random weights for other parents."""
    there = cases.groupby("case")["init"].agg(set)
    half = controls[controls["init"].isin(["random", "subclone", "principal"])].assign(case="half_width")
    parts = [cases] if "half_width" in there else [half, cases]
    random = pd.concat(parts).query("case == 'half_width' and init == 'random'")
    others = [random.assign(case=c) for c in OTHER_PARENTS if c in there and "random" not in there[c]]
    return pd.concat([*others, *parts])


def gaps(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`comparisons` of each case in `runs` (a column `case`) with its own `subclone`, in the order of `CASES`.

    More columns: case, reference (the mean of subclone's final values) and budget (the length of training).
    """
    parts = []
    for case in CASES:
        own = runs[runs["case"] == case].drop(columns="case")
        if len(own):
            reference = final(own, study)[REFERENCE].mean()
            parts.append(comparisons(own, study).assign(case=case, reference=reference, budget=own[study.time].max()))
    return pd.concat(parts, ignore_index=True)


def gaps_table(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`gaps` as text; each case begins with its subclone. Subclone's end is reached after a share of the budget."""
    unit, scale, digits = ("points", 100, 1) if study.sign > 0 else ("nats", 1, 3)
    names = {"case": "case", "init": "init", "lr": "LR", "seeds": "seeds", "final": "at the end"}
    names |= {"better": f"{unit} better", "verdict": "", "caught_up": "subclone's end after"}
    rows = []
    for case, table in gaps(runs, study).groupby("case", sort=False):
        arm = runs[(runs["case"] == case) & (runs["init"] == REFERENCE)]
        end = quality_text(table["reference"].iloc[0], study)
        rows.append((CASES[case], f"`{REFERENCE}`", f"{arm['lr'].iloc[0]:g}", arm["seed"].nunique(), end, "-", "", "-"))
        for row in table.itertuples():
            better, low, high = (f"{scale * x:+.{digits}f}" for x in (row.better, row.better_low, row.better_high))
            verdict = "better" if row.better_low > 0 else "worse" if row.better_high < 0 else "open"
            reached = f"{row.caught_up / row.budget:.0%}" if np.isfinite(row.caught_up) else "never"
            values = (f"{row.lr:g}", row.seeds, quality_text(row.final, study), f"{better} [{low}, {high}]", verdict)
            rows.append((CASES[case], f"`{row.init}`", *values, reached))
    return pd.DataFrame(rows, columns=list(names.values()))


def gaps_figure(runs: pd.DataFrame, study: Study):
    """For each case, with intervals: what subclone ends better than random, and what principal ends better than it."""
    table = gaps(runs, study)
    cases = list(table["case"].unique())[::-1]
    unit, scale = ("points", 100) if study.sign > 0 else ("nats", 1)
    fig, axes = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.17 * len(cases))
    for ax, init, sign in zip(axes, ("random", "principal"), (-1, 1), strict=True):
        arm = table[table["init"] == init]
        value = sign * scale * arm["better"]
        ends = np.sort([sign * scale * arm["better_low"], sign * scale * arm["better_high"]], axis=0)
        bars = np.clip([value - ends[0], ends[1] - value], 0, None)
        better = REFERENCE if sign < 0 else init
        ax.errorbar(value, arm["case"].map(cases.index), xerr=bars, fmt=".", color=COLOURS[better], linewidth=1)
        ax.axvline(0, color="0.6", linewidth=0.6, linestyle=":")
        other = REFERENCE if sign > 0 else init
        ax.set(xlabel=f"{unit} that {LABELS[better]} ends better than {LABELS[other]}", ylim=(-0.6, len(cases) - 0.4))
    axes[0].set_yticks(range(len(cases)), [CASES[case] for case in cases])
    axes[1].set_yticks([])
    return fig
