"""What was measured of a study: the files in its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from .arms import BASELINE, REFERENCE
from .cases import every_case
from .equal_time import elsewhere, has_teacher, places
from .runs import read_runs, read_units
from .speedup import of_parents
from .study import STUDIES, Study

PAPER = {BASELINE, REFERENCE, "subclone_no_scaling", "subclone_no_reordering"}


@dataclass(frozen=True)
class Evidence:
    """Runs as `collect` writes them, and what they were tuned on (`_grid`).

    bigger: of the child of a bigger parent. controls: of arms that the paper does not have, with those that they are
    compared with. cases: over shapes, budgets and parents, in a column `case`. map: of principal, over the whole grid.
    weights: where units are scored without data. parents: of several parents, in a column `parent`.
    budgets: over lengths of training, in a column `case`; where none is as long, those at equal time that have no
    teacher. rates: over learning rates, from parents whose own rate ended in one way or another, in a column `case`.
    cost: of the parent, and of filling a child from it, in the child's time.
    equal_time: recipes, each at several budgets of time, which a column `case` says.
    blocks, units: what `measure_blocks` and `measure_units` say of the parent.
    """

    study: Study
    runs: pd.DataFrame
    grid: pd.DataFrame | None = None
    bigger: pd.DataFrame | None = None
    bigger_grid: pd.DataFrame | None = None
    controls: pd.DataFrame | None = None
    controls_grid: pd.DataFrame | None = None
    cases: pd.DataFrame | None = None
    cases_grid: pd.DataFrame | None = None
    map: pd.DataFrame | None = None
    weights: pd.DataFrame | None = None
    weights_grid: pd.DataFrame | None = None
    parents: pd.DataFrame | None = None
    parents_grid: pd.DataFrame | None = None
    budgets: pd.DataFrame | None = None
    budgets_grid: pd.DataFrame | None = None
    rates: pd.DataFrame | None = None
    cost: pd.DataFrame | None = None
    equal_time: pd.DataFrame | None = None
    equal_time_grid: pd.DataFrame | None = None
    blocks: pd.DataFrame | None = None
    units: pd.DataFrame | None = None


def read_evidence(folder: Path, study: Study) -> Evidence:
    """What the study's `folder` holds; arms and cases that were not run again are taken from the study's own runs."""

    def read(name: str, how: Callable[[Path], pd.DataFrame] = read_runs) -> pd.DataFrame | None:
        file = folder / f"{name}.csv"
        return how(file) if file.exists() else None

    def drawn(file: Path) -> pd.DataFrame:
        return of_parents(read_runs(file))

    def compared(own: pd.DataFrame | None, end: str = "") -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """(controls, cases)"""
        controls = completed(read(f"controls{end}"), own)
        found = [runs for name in ("cases", "distilled") if (runs := read(f"{name}{end}")) is not None]
        parts = [runs for runs in found if REFERENCE in set(runs["init"])]  # which a case is compared with
        same = own if controls is None else controls
        return controls, None if same is None or not parts else every_case(pd.concat(parts), same, study)

    def with_own(budgets: pd.DataFrame | None, own: pd.DataFrame | None) -> pd.DataFrame | None:
        """The study's own budget, too, if its runs have all arms and no teacher, and the budget is not there."""
        if budgets is None or own is None or has_teacher(study):
            return budgets
        same = own[own["init"].isin(budgets["init"])]
        there = budgets.groupby("case")[study.time].max()
        if set(budgets["init"]) - set(same["init"]) or same[study.time].max() in there.to_numpy():
            return budgets
        return pd.concat([budgets, same.assign(case="own")])

    def lengths(budgets: pd.DataFrame | None, recipes: pd.DataFrame | None) -> pd.DataFrame | None:
        """The runs at equal time that have no teacher are budgets of its arms, too, where none is as long."""
        if recipes is None:
            return budgets
        untaught = recipes[recipes["case"].isin({case for case, (_, share) in places(study).items() if not share})]
        if budgets is None:
            return untaught
        there, own = (runs.groupby("case")[study.time].transform("max") for runs in (budgets, untaught))
        return pd.concat([budgets, untaught[~own.isin(there) & untaught["init"].isin(budgets["init"])]])

    def recipes(what: Literal["runs", "grid"], end: str = "") -> pd.DataFrame | None:
        """At equal time; cases that were not run again are taken from other records, and from the budgets."""
        own, budgets = read(f"equal_time{end}"), read(f"budgets{end}")
        if own is None:
            return None
        for case, (record, there) in elsewhere(study, what).items():
            if (found := read(record)) is not None:
                found = found if there is None else found[found["case"] == there]
                own = pd.concat([own[own["case"] != case], found.assign(case=case)])
        if budgets is None:
            return own
        return pd.concat([own, budgets[budgets["case"].isin({*places(study)} - {*own["case"]})]])

    runs, grid = read_runs(folder / "runs.csv"), read("grid")
    (controls, cases), (controls_grid, cases_grid) = compared(runs), compared(grid, "_grid")
    principal = read("map")
    return Evidence(
        study,
        runs,
        grid=grid,
        bigger=read("bigger"),
        bigger_grid=read("bigger_grid"),
        controls=controls,
        controls_grid=controls_grid,
        cases=cases,
        cases_grid=cases_grid,
        map=None if principal is None else completed(principal, grid),
        weights=read("weights"),
        weights_grid=read("weights_grid"),
        parents=read("parents", drawn),
        parents_grid=read("parents_grid", drawn),
        budgets=with_own(lengths(read("budgets"), recipes("runs")), runs),
        budgets_grid=with_own(lengths(read("budgets_grid"), recipes("grid", "_grid")), grid),
        rates=read("rates"),
        cost=read("cost", pd.read_csv),
        equal_time=recipes("runs"),
        equal_time_grid=recipes("grid", "_grid"),
        blocks=read("blocks", pd.read_csv),
        units=read("units", read_units),
    )


def completed(controls: pd.DataFrame | None, own: pd.DataFrame | None) -> pd.DataFrame | None:
    """The controls' runs, and the study's `own` of arms that they leave out.

    Without controls, the study's own runs, if there is more to compare in them than the paper's arms.
    """
    if own is None:
        return controls
    if controls is None:
        return own if set(own["init"]) - PAPER else None
    return pd.concat([own[~own["init"].isin(controls["init"])], controls])


def evidence(root: Path) -> list[Evidence]:
    """Of each study below `root` whose runs are there."""
    return [read_evidence(root / name, study) for name, study in STUDIES.items() if (root / name / "runs.csv").exists()]
