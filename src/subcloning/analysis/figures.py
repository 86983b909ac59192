"""The paper's figures, one function each: of what was found, into a folder such as experiments/."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from .arms import BASELINE, BIGGER, REFERENCE
from .budgets import budgets_figure, budgets_table, payback_table, trends_table
from .cases import cases_figure, cases_table
from .claims import BEYOND
from .comparisons import controls_figure, controls_table
from .convergence import convergence_figure, convergence_table, speed_up_figure
from .drawn import parents_figure, parents_table
from .equal_time import recipes_figure, recipes_table
from .evidence import Evidence
from .parents import blocks_figure, correlations, magnitudes_figure, sorted_scores_figure
from .rates import rates_figure, rates_table
from .results import not_yet_run, results
from .style import save
from .tables import fill, markdown, noted, write
from .tuning import best_table, tuning_figure, tuning_table


def report(folder: Path, e: Evidence) -> str:
    """A study's tables and figure, in its folder; return the first of them as Markdown."""
    table = convergence_table(e.runs, e.study, e.grid)
    write(folder / "table.csv", table.to_csv(index=False))
    text = noted(table)
    write(folder / "table.md", text)
    save(convergence_figure(e.runs, e.study), folder / "convergence")
    if e.grid is not None:
        write(folder / "tuning.md", markdown(tuning_table(e.grid, e.study)))
    return text


def convergence(root: Path, found: list[Evidence]) -> None:
    """Fig. 1, 9 and 10: random and subcloned, and the speed-up at each target."""
    folder = root / "fig01_09_10_convergence"
    for e in found:
        runs = _arms(e.runs, BASELINE, REFERENCE)
        save(convergence_figure(runs, e.study), folder / e.study.name)
    save(speed_up_figure({e.study.label: (e.runs, e.study) for e in found}), folder / "speed_up")


def blocks(root: Path, found: list[Evidence]) -> None:
    """Fig. 2."""
    for e in found:
        if e.blocks is not None:
            draw_blocks(e.blocks, root / "fig02_blocks" / e.study.name)


def scores(root: Path, found: list[Evidence]) -> None:
    """Fig. 3, 5, 6 and 8."""
    for e in found:
        if e.units is not None:
            draw_units(e.units, root / "fig03_05_06_08_scores" / e.study.name)


def draw_blocks(table: pd.DataFrame, path: Path) -> None:
    save(blocks_figure(table), path)


def draw_units(table: pd.DataFrame, path: Path) -> None:
    save(magnitudes_figure(table), path.with_name(f"{path.name}_layers"))
    save(sorted_scores_figure(table), path.with_name(f"{path.name}_sorted"))
    text = markdown(correlations(table).map("{:.2f}".format).reset_index(names="block"))
    write(path.with_name(f"{path.name}_correlations.md"), text)


def tuning(root: Path, found: list[Evidence]) -> None:
    """Fig. 11 and Table 1."""
    folder = root / "fig11_tuning"
    grids = {e.study.label: (e.grid, e.study) for e in found if e.grid is not None}
    for e in found:
        if e.grid is not None:
            save(tuning_figure(e.grid, e.study), folder / e.study.name)
        sources = {"length of training": _tuned_lengths(e), "the parent's own rate": e.rates}
        why = {title: grid for title, grid in sources.items() if grid is not None}
        if why:
            save(rates_figure(why, e.study), folder / f"{e.study.name}_why")
            tables = [f"{title.capitalize()}:\n\n{markdown(rates_table(grid, e.study))}" for title, grid in why.items()]
            fill(folder / "README.md", f"{e.study.name}_why", "\n".join(tables))
    write(folder / "table.md", markdown(best_table(grids)))


def ablation(folder: str, init: str) -> Callable[[Path, list[Evidence]], None]:
    """Random, subcloned without one part, and subcloned."""

    def make(root: Path, found: list[Evidence]) -> None:
        for e in (e for e in found if init in set(e.runs["init"])):
            runs = _arms(e.runs, BASELINE, init, REFERENCE)
            save(convergence_figure(runs, e.study), root / folder / e.study.name)
            write(root / folder / f"{e.study.name}.md", noted(convergence_table(runs, e.study, e.grid)))

    return make


def parents(root: Path, found: list[Evidence]) -> None:
    """Fig. 13: from the nearer and from the bigger parent."""
    folder = root / "fig13_parent"
    for e in found:
        runs, grid = _with_bigger(e.runs, e.bigger), _with_bigger(e.grid, e.bigger_grid)
        if runs is not None:
            save(convergence_figure(runs, e.study), folder / e.study.name)
            write(folder / f"{e.study.name}.md", noted(convergence_table(runs, e.study, grid)))


def controls(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: what makes subcloning work."""
    for e in found:
        if e.controls is not None:
            save(controls_figure(e.controls, e.study), root / "controls" / e.study.name)
            table = controls_table(e.controls, e.study, e.controls_grid)
            fill(root / "controls" / "README.md", e.study.name, noted(table))
        if e.weights is not None:
            table = controls_table(e.weights, e.study, e.weights_grid)
            fill(root / "controls" / "README.md", f"{e.study.name}_weights", noted(table))


def principal(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: directions of the residual stream instead of neurons."""
    for e in found:
        if e.controls is not None and "principal" in set(e.controls["init"]):
            runs = _arms(e.controls, BASELINE, REFERENCE, "principal")
            save(convergence_figure(runs, e.study), root / "principal" / e.study.name)
            table = convergence_table(runs, e.study, e.controls_grid)
            fill(root / "principal" / "README.md", e.study.name, noted(table))
        if e.map is not None:
            grid = _arms(e.map, BASELINE, REFERENCE, "principal")
            save(tuning_figure(grid, e.study), root / "principal" / f"{e.study.name}_map")
            fill(root / "principal" / "README.md", f"{e.study.name}_map", markdown(tuning_table(grid, e.study)))


def cases(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: over shapes, budgets and parents."""
    for e in found:
        if e.cases is not None:
            save(cases_figure(e.cases, e.study), root / "cases" / e.study.name)
            fill(root / "cases" / "README.md", e.study.name, noted(cases_table(e.cases, e.study, e.cases_grid)))


def drawn(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: what holds over several parents by the same recipe."""
    folder = root / "parents"
    for e in found:
        if e.parents is not None:
            save(parents_figure(e.parents, e.study, REFERENCE), folder / e.study.name)
            for reference in (BASELINE, REFERENCE):
                table = parents_table(e.parents, e.study, reference, e.parents_grid)
                fill(folder / "README.md", f"{e.study.name}_{reference}", noted(table))


def budgets(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: over lengths of training."""
    folder = root / "budgets"
    for e in found:
        if e.budgets is not None:
            save(budgets_figure(e.budgets, e.study), folder / e.study.name)
            table = budgets_table(e.budgets, e.study, e.budgets_grid)
            fill(folder / "README.md", e.study.name, noted(table))
            fill(folder / "README.md", f"{e.study.name}_trend", markdown(trends_table(e.budgets, e.study)))
            if e.cost is not None:
                fill(
                    folder / "README.md", f"{e.study.name}_payback", markdown(payback_table(e.budgets, e.study, e.cost))
                )


def equal_time(root: Path, found: list[Evidence]) -> None:
    """Beyond the paper: what to do with a parent and some time."""
    folder = root / "equal_time"
    for e in found:
        if e.equal_time is not None:
            save(recipes_figure(e.equal_time, e.study), folder / e.study.name)
            table = recipes_table(e.equal_time, e.study, e.equal_time_grid)
            fill(folder / "README.md", e.study.name, noted(table))


def all_results(root: Path, found: list[Evidence]) -> None:
    """RESULTS.md: the paper's claims, ours, and what was not run for them."""
    fill(root / "RESULTS.md", "claims", results(found))
    fill(root / "RESULTS.md", "beyond", results([e for e in found if e.controls is not None], BEYOND))
    fill(root / "RESULTS.md", "waiting", not_yet_run())


FIGURES = {
    "fig01": convergence,
    "fig02": blocks,
    "fig03": scores,
    "fig11": tuning,
    "fig12": ablation("fig12_scaling", "subclone_no_scaling"),
    "fig13": parents,
    "fig14": ablation("fig14_reordering", "subclone_no_reordering"),
    "controls": controls,
    "principal": principal,
    "cases": cases,
    "parents": drawn,
    "budgets": budgets,
    "equal_time": equal_time,
    "results": all_results,
}
ALIASES = {"fig05": "fig03", "fig06": "fig03", "fig08": "fig03", "fig09": "fig01", "fig10": "fig01"}


def _with_bigger(own: pd.DataFrame | None, bigger: pd.DataFrame | None) -> pd.DataFrame | None:
    """Runs of random, of subclone and of the bigger parent's child, where there are both."""
    if own is None or bigger is None:
        return None
    return pd.concat([_arms(own, BASELINE, REFERENCE), bigger.assign(init=BIGGER.name)])


def _tuned_lengths(e: Evidence) -> pd.DataFrame | None:
    """The grids of the budgets, if rates were tried at more than one length: a budget may be tuned at another's."""
    if e.budgets_grid is None:
        return None
    lengths = e.budgets_grid.groupby("case")[e.study.time].max().drop_duplicates()
    return e.budgets_grid[e.budgets_grid["case"].isin(lengths.index)] if len(lengths) > 1 else None


def _arms(runs: pd.DataFrame, *inits: str) -> pd.DataFrame:
    return runs[runs["init"].isin(inits)]
