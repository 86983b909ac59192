"""When does it pay? Random, subcloned and principal children over shapes, budgets and parents (experiments/cases)."""

import pandas as pd

from .comparisons import REFERENCE, comparisons
from .speedup import arms, final, mean_final
from .study import Study
from .style import COLOURS, LABELS, error_bars, figure, known
from .text import gain_scale, gain_text, mean_text, reached_text
from .tuning import effort

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


def compare_cases(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`comparisons` of each case in `runs` (a column `case`) with its own `subclone`, in the order of `CASES`.

    Each case begins with a row of subclone itself, without an interval. More columns: case, and share (of the training,
    after which the arm is at the mean of subclone's final values). grid: the tuning runs, with a column `case` too.
    Raises SubcloningError for a case that is not in `CASES`.
    """
    parts = []
    for case in known(runs["case"], CASES, "CASES in analysis/cases.py"):
        own = runs[runs["case"] == case].drop(columns="case")
        tried = None if grid is None else grid[grid["case"] == case]
        table = comparisons(own, study, tried)
        by_arm = arms(own, study)
        goal, length = mean_final(by_arm[REFERENCE], study), own[study.time].max()

        def share(time, length=length):
            return f"{time / length:.0%}"

        table["share"] = [reached_text(by_arm[init], study, goal, share) for init in table["init"]]
        setting = by_arm[REFERENCE][["lr", "weight_decay"]].iloc[0].to_dict()
        first = {
            "init": REFERENCE,
            **setting,
            "tuning": "" if tried is None else effort(tried, REFERENCE, **setting),
            "seeds": by_arm[REFERENCE]["seed"].nunique(),
            "final": mean_text(final(by_arm[REFERENCE], study), study),
        }
        parts.append(pd.concat([pd.DataFrame([first]), table]).assign(case=case))
    return pd.concat(parts, ignore_index=True)


def cases_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`compare_cases` as text; each case begins with its subclone, whose end an arm reaches after a share of the
    training."""
    rows = []
    for row in compare_cases(runs, study, grid).itertuples():
        arm = (CASES[row.case], f"`{row.init}`", f"{row.lr:g}", row.tuning, row.seeds, row.final)
        itself = row.init == REFERENCE
        judged = ("-", "", "-") if itself else (gain_text(row.better, study), row.better.verdict, row.share)
        rows.append((*arm, *judged))
    names = ["case", "init", "LR", "tuning", "seeds", "at the end", f"{gain_scale(study)[0]} better", ""]
    table = pd.DataFrame(rows, columns=[*names, "subclone's end after"])
    return table.drop(columns=["tuning"] if grid is None else [])


def cases_figure(runs: pd.DataFrame, study: Study):
    """For each case, with intervals: what subclone ends better than random, and what principal ends better than it."""
    table = compare_cases(runs, study)
    cases = list(table["case"].unique())[::-1]
    unit, scale, _ = gain_scale(study)
    fig, axes = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.17 * len(cases))
    for ax, init, sign in zip(axes, ("random", "principal"), (-1, 1), strict=True):
        arm = table[table["init"] == init]
        better = REFERENCE if sign < 0 else init
        error_bars(ax, arm["case"].map(cases.index), arm["better"], sign * scale, COLOURS[better])
        ax.axvline(0, color="0.6", linewidth=0.6, linestyle=":")
        other = REFERENCE if sign > 0 else init
        ax.set(xlabel=f"{unit} that {LABELS[better]} ends better than {LABELS[other]}", ylim=(-0.6, len(cases) - 0.4))
    axes[0].set_yticks(range(len(cases)), [CASES[case] for case in cases])
    axes[1].set_yticks([])
    return fig
