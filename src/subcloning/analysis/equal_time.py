"""What to do with a parent and some time? Recipes, teachers included, at equal time (experiments/equal_time)."""

from typing import Literal

import pandas as pd
import yaml
from matplotlib.figure import Figure

from ..errors import SubcloningError
from ..files import ROOT
from .arms import BASELINE, REFERENCE, known
from .comparisons import judged
from .intervals import difference
from .speedup import arms, final, limits, mean_final, needed, setting_of
from .study import Study
from .style import figure, plain_log
from .text import mean_text, share_text
from .tuning import effort


def _cases(study: Study) -> dict[str, dict]:
    file = ROOT / "configs" / "experiment" / f"equal_time_{study.name}.yaml"
    return yaml.safe_load(file.read_text())["cases"] if file.exists() else {}


def places(study: Study) -> dict[str, tuple[str, str]]:
    """Case -> (the name of its budget, its teacher's share or ""), by configs/experiment/equal_time_STUDY.yaml."""
    return {name: (case["budget"], _share(case["distill"])) for name, case in _cases(study).items()}


def elsewhere(study: Study, what: Literal["runs", "grid"]) -> dict[str, tuple[str, str | None]]:
    """Case -> (the record of the study that has its runs or tuning, its case there or None), if that is not its own."""
    own = "equal_time_grid"
    return {
        name: (case.get(what, own), case["tuned"])
        for name, case in _cases(study).items()
        if what in case or (what == "grid" and "tuned" in case)
    }


def has_teacher(study: Study) -> bool:
    """Whether the study's own runs are those of a recipe with a teacher."""
    return any(case.get("runs") == "runs" and case["distill"] for case in _cases(study).values())


def _share(teacher: dict | None) -> str:
    return f"{teacher['weight']:g}{' to 0' if teacher['decay'] else ''}" if teacher else ""


def recipes(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each recipe in `runs`, an init mode with or without a teacher, against `subclone` without one of the same budget.

    A column `case` says budget and teacher (`places`). Columns: budget (the time that it is as long as, of training
    without a teacher), teacher, init, lr, weight_decay, tuning (`effort` in `grid`; "" without one), seeds, ends (seed
    -> metric), final (as text), better (at the end, an `Interval`, in favour of the recipe), and as text share: of the
    time, after which a recipe is where subclone ends on average. Rows are in the order of the config's cases, each
    budget's together. Raises SubcloningError for an unknown case, or a budget without subclone.
    """
    of = places(study)
    if unknown := sorted(set(runs["case"]) - set(of)):
        raise SubcloningError(
            f"runs of case {unknown}, which configs/experiment/equal_time_{study.name}.yaml does not have: add it "
            "there, or leave the runs out"
        )
    parts = {case: arms(own.drop(columns="case"), study) for case, own in runs.groupby("case")}
    there = [case for case in of if case in parts]
    rows = []
    for budget in dict.fromkeys(of[case][0] for case in there):
        own = [case for case in there if of[case][0] == budget]
        untaught = next((parts[case] for case in own if not of[case][1]), {})
        reference = needed(untaught, REFERENCE)
        ends, goal = study.sign * final(reference, study), mean_final(reference, study)
        for case in own:
            tried = None if grid is None else grid[grid["case"] == case]
            for init in (arm.name for arm in known(parts[case])):
                arm = parts[case][init]
                last, setting = final(arm, study), setting_of(arm)
                rows.append(
                    {
                        "budget": limits(reference, study)[1],
                        "teacher": of[case][1],
                        "init": init,
                        **setting,
                        "tuning": "" if tried is None else effort(tried, init, **setting),
                        "seeds": arm["seed"].nunique(),
                        "ends": last,
                        "final": mean_text(last, study),
                        "better": difference(study.sign * last, ends),
                        "share": share_text(arm, study, goal),
                    }
                )
    return pd.DataFrame(rows)


def recipes_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`recipes` as text."""
    rows = []
    for row in recipes(runs, study, grid).to_dict("records"):
        itself = (row["init"], row["teacher"]) == (REFERENCE, "")
        rows.append(
            {
                f"time of so many {study.time_unit}": study.time_text(row["budget"], digits=0),
                "init": f"`{row['init']}`",
                "teacher's share": row["teacher"] or "-",
                "LR": f"{row['lr']:g}",
                "tuning": row["tuning"],
                "seeds": row["seeds"],
                "at the end": row["final"],
                **({f"{study.unit} better": "-", "": ""} if itself else judged(row["better"], study)),
                "subclone's end after": "-" if itself else row["share"],
            }
        )
    return pd.DataFrame(rows).drop(columns=["tuning"] if grid is None else [])


def recipes_figure(runs: pd.DataFrame, study: Study) -> Figure:
    """The end over the budget of time, a line for each recipe; random weights, far off, are left out."""
    table = recipes(runs, study)
    fig, (ax,) = figure(columns=2)
    for arm in known(table["init"]):
        for teacher in table["teacher"].unique():
            line = table[(table["init"] == arm.name) & (table["teacher"] == teacher)]
            if line.empty or arm.colour is None or arm.name == BASELINE:
                continue
            label = f"{arm.label}, teacher {teacher}" if teacher else arm.label
            form = ".-" if not teacher else "v:" if "to" in teacher else "^--"
            ends = [own.mean() for own in line["ends"]]
            ax.plot(line["budget"], ends, form, markersize=4 if teacher else None, color=arm.ink, label=label)
    ax.set(
        xlabel=f"time of so many {study.time_unit}", ylabel=f"validation {study.metric.removeprefix('val_')} at the end"
    )
    plain_log(ax.xaxis)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
