"""When does it pay? Random, subcloned and principal children over shapes, budgets and parents (experiments/cases)."""

import pandas as pd
import yaml
from matplotlib.figure import Figure

from ..errors import SubcloningError
from ..files import ROOT
from .arms import ARMS, BASELINE, REFERENCE
from .comparisons import comparisons, judged
from .speedup import arms, final, mean_final, setting_of
from .study import Study
from .style import error_bars, figure
from .text import mean_text, share_text
from .tuning import effort


def cases_of(study: Study) -> dict[str, dict]:
    """Case -> what configs/experiment/cases_STUDY.yaml, or distill_STUDY.yaml, says of it, in the order of tables."""
    found: dict[str, dict] = {}
    for kind in ("cases", "distill"):
        file = ROOT / "configs" / "experiment" / f"{kind}_{study.name}.yaml"
        if file.exists():
            found |= yaml.safe_load(file.read_text())["cases"]
    if nameless := [name for name, case in found.items() if not case.get("label")]:
        raise SubcloningError(f"case {nameless[0]} of {study.name} has no label: say what tables are to call it")
    return found


def every_case(cases: pd.DataFrame, controls: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`cases`, and what is missing there: half width, from `controls`, and its random weights for other parents."""
    there = cases.groupby("case")["init"].agg(set)
    half = controls[controls["init"].isin([BASELINE, REFERENCE, "principal"])].assign(case="half_width")
    parts = [cases] if "half_width" in there else [half, cases]
    random = pd.concat(parts).query("case == 'half_width' and init == @BASELINE")
    # In all else these cases are as the study itself.
    others = [name for name, case in cases_of(study).items() if case["parent"] != "trained" and name in there]
    return pd.concat([*(random.assign(case=c) for c in others if BASELINE not in there[c]), *parts])


def compare_cases(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`comparisons` of each case in `runs` (a column `case`) with its own `subclone`, in the order of `cases_of`.

    Each case begins with a row of subclone itself, without an interval. More columns: case, its label, and share (of
    the training, after which the arm is at the mean of subclone's final values). grid: the tuning runs, with a column
    `case` too. Raises SubcloningError for an unknown case.
    """
    cases = cases_of(study)
    if unknown := sorted(set(runs["case"]) - set(cases)):
        raise SubcloningError(
            f"runs of case {unknown}, which configs/experiment/cases_{study.name}.yaml does not have: add it there, or "
            "leave the runs out"
        )
    parts = []
    for case in (name for name in cases if name in set(runs["case"])):
        own = runs[runs["case"] == case].drop(columns="case")
        tried = None if grid is None else grid[grid["case"] == case]
        table = comparisons(own, study, tried)
        by_arm = arms(own, study)
        goal = mean_final(by_arm[REFERENCE], study)
        table["share"] = [share_text(by_arm[init], study, goal) for init in table["init"]]
        setting = setting_of(by_arm[REFERENCE])
        first = {
            "init": REFERENCE,
            **setting,
            "tuning": "" if tried is None else effort(tried, REFERENCE, **setting),
            "seeds": by_arm[REFERENCE]["seed"].nunique(),
            "final": mean_text(final(by_arm[REFERENCE], study), study),
        }
        parts.append(pd.concat([pd.DataFrame([first]), table]).assign(case=case, label=cases[case]["label"]))
    return pd.concat(parts, ignore_index=True)


def cases_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`compare_cases` as text; each case begins with its subclone, whose end an arm reaches after a share of the
    training."""
    rows = []
    for row in compare_cases(runs, study, grid).to_dict("records"):
        itself = row["init"] == REFERENCE
        rows.append(
            {
                "case": row["label"],
                "init": f"`{row['init']}`",
                "LR": f"{row['lr']:g}",
                "tuning": row["tuning"],
                "seeds": row["seeds"],
                "at the end": row["final"],
                **({f"{study.unit} better": "-", "": ""} if itself else judged(row["better"], study)),
                "subclone's end after": "-" if itself else row["share"],
            }
        )
    return pd.DataFrame(rows).drop(columns=["tuning"] if grid is None else [])


def cases_figure(runs: pd.DataFrame, study: Study) -> Figure:
    """For each case, with intervals: what subclone ends better than random, and what principal ends better than it."""
    table = compare_cases(runs, study)
    cases = list(table["label"].unique())[::-1]
    fig, axes = figure(columns=2, panels=2)
    fig.set_figheight(0.9 + 0.17 * len(cases))
    for ax, better, other in zip(axes, (REFERENCE, "principal"), (BASELINE, REFERENCE), strict=True):
        arm = table[table["init"] == (other if better == REFERENCE else better)]
        factor = -study.factor if better == REFERENCE else study.factor
        error_bars(ax, arm["better"], arm["label"].map(cases.index), ARMS[better].ink, factor)
        words = f"{study.unit} that {ARMS[better].label} ends better than {ARMS[other].label}"
        ax.set(xlabel=words, ylim=(-0.6, len(cases) - 0.4))
    axes[0].set_yticks(range(len(cases)), cases)
    axes[1].set_yticks([])
    return fig
