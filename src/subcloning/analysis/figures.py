"""The paper's figures, one function each, from the committed files below a folder such as experiments/."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from .cases import cases_figure, cases_table, every_case
from .comparisons import controls_figure, controls_table
from .convergence import convergence_figure, convergence_table, speed_up_figure
from .parents import blocks_figure, correlations, magnitudes_figure, sorted_scores_figure
from .results import BEYOND, results
from .runs import read_runs, read_units
from .studies import fill, markdown, noted, write
from .study import STUDIES
from .style import save
from .tuning import best_table, tuning_figure, tuning_table
from .verdicts import BIGGER, Evidence

# Study -> (what it is called, its parent; none where another study has the same one).
MEASURED = {
    "digits": ("ViT, digits (mini)", "digits_vit"),
    "gpt2_stdlib": ("GPT-2, stdlib (mini)", "stdlib_gpt2"),
    "gpt2_stdlib_depth": ("GPT-2, stdlib, less depth (mini)", None),
    "vit_cifar10_cpu": ("ViT, CIFAR-10 (small)", "cifar10_vit_cpu"),
    "vit_cifar10": ("ViT, CIFAR-10 (small, GPU)", "cifar10_vit"),
    "gpt2_books": ("GPT-2, books (small)", "books_gpt2"),
    "gpt2_books_depth": ("GPT-2, books, less depth (small)", None),
}


def evidence(root: Path) -> list[Evidence]:
    """Of each study whose runs are there."""

    def read(name: str, part: str, how: Callable = read_runs) -> pd.DataFrame | None:
        file = root / name / part
        return how(file) if file.exists() else None

    found = []
    for name, (label, _) in MEASURED.items():
        runs, grid = read(name, "runs.csv"), read(name, "grid.csv")
        if runs is None:
            continue
        controls, controls_grid = (_with(a, read(name, f"controls{b}.csv")) for a, b in ((runs, ""), (grid, "_grid")))
        cases, cases_grid = (
            [read(name, f"{part}{end}.csv") for part in ("cases", "distilled")] for end in ("", "_grid")
        )
        found.append(
            Evidence(
                label,
                name,
                STUDIES[name],
                runs,
                grid=grid,
                bigger=read(name, "bigger.csv"),
                bigger_grid=read(name, "bigger_grid.csv"),
                controls=controls,
                controls_grid=controls_grid,
                cases=None if cases[0] is None else every_case(controls, pd.concat(cases)),
                cases_grid=None if cases_grid[0] is None else every_case(controls_grid, pd.concat(cases_grid)),
                blocks=read(name, "blocks.csv", pd.read_csv),
                units=read(name, "units.csv", read_units),
            )
        )
    return found


def convergence(root: Path) -> None:
    """Fig. 1, 9 and 10: random and subcloned, and the speed-up at each target."""
    folder = root / "fig01_09_10_convergence"
    for e in evidence(root):
        runs = _arms(e.runs, "random", "subclone")
        save(convergence_figure(runs, e.study), folder / e.folder)
    save(speed_up_figure({e.name: (e.runs, e.study) for e in evidence(root)}), folder / "speed_up")


def blocks(root: Path) -> None:
    """Fig. 2."""
    for e in evidence(root):
        if e.blocks is not None:
            draw_blocks(e.blocks, root / "fig02_blocks" / e.folder)


def scores(root: Path) -> None:
    """Fig. 3, 5, 6 and 8."""
    for e in evidence(root):
        if e.units is not None:
            draw_units(e.units, root / "fig03_05_06_08_scores" / e.folder)


def draw_blocks(table: pd.DataFrame, path: Path) -> None:
    save(blocks_figure(table), path)


def draw_units(table: pd.DataFrame, path: Path) -> None:
    save(magnitudes_figure(table), path.with_name(f"{path.name}_layers"))
    save(sorted_scores_figure(table), path.with_name(f"{path.name}_sorted"))
    text = markdown(correlations(table).map("{:.2f}".format).reset_index(names="block"))
    write(path.with_name(f"{path.name}_correlations.md"), text)


def tuning(root: Path) -> None:
    """Fig. 11 and Table 1."""
    folder = root / "fig11_tuning"
    grids = {e.name: (e.grid, e.study) for e in evidence(root) if e.grid is not None}
    for e in evidence(root):
        if e.grid is not None:
            save(tuning_figure(e.grid, e.study), folder / e.folder)
    write(folder / "table.md", markdown(best_table(grids)))


def ablation(folder: str, init: str) -> Callable[[Path], None]:
    """Random, subcloned without one part, and subcloned."""

    def make(root: Path) -> None:
        for e in evidence(root):
            runs = _arms(e.runs, "random", init, "subclone")
            save(convergence_figure(runs, e.study), root / folder / e.folder)
            write(root / folder / f"{e.folder}.md", noted(convergence_table(runs, e.study, e.grid)))

    return make


def parents(root: Path) -> None:
    """Fig. 13: from the nearer and from the bigger parent."""
    folder = root / "fig13_parent"
    for e in evidence(root):
        if e.bigger is not None:
            runs, grid = (
                pd.concat([_arms(own, "random", "subclone"), bigger.assign(init=BIGGER)])
                for own, bigger in ((e.runs, e.bigger), (e.grid, e.bigger_grid))
            )
            save(convergence_figure(runs, e.study), folder / e.folder)
            write(folder / f"{e.folder}.md", noted(convergence_table(runs, e.study, grid)))


def controls(root: Path) -> None:
    """Beyond the paper: what makes subcloning work."""
    for e in evidence(root):
        if e.controls is not None:
            save(controls_figure(e.controls, e.study), root / "controls" / e.folder)
            fill(root / "controls" / "README.md", e.folder, noted(controls_table(e.controls, e.study, e.controls_grid)))


def principal(root: Path) -> None:
    """Beyond the paper: directions of the residual stream instead of neurons."""
    for e in evidence(root):
        if e.controls is not None and "principal" in set(e.controls["init"]):
            runs = _arms(e.controls, "random", "subclone", "principal")
            save(convergence_figure(runs, e.study), root / "principal" / e.folder)
            fill(root / "principal" / "README.md", e.folder, noted(convergence_table(runs, e.study, e.controls_grid)))
        if (file := root / e.folder / "map.csv").exists():
            grid = _arms(_with(e.grid, read_runs(file)), "random", "subclone", "principal")
            save(tuning_figure(grid, e.study), root / "principal" / f"{e.folder}_map")
            fill(root / "principal" / "README.md", f"{e.folder}_map", markdown(tuning_table(grid, e.study)))


def cases(root: Path) -> None:
    """Beyond the paper: over shapes, budgets and parents."""
    for e in evidence(root):
        if e.cases is not None:
            save(cases_figure(e.cases, e.study), root / "cases" / e.folder)
            fill(root / "cases" / "README.md", e.folder, noted(cases_table(e.cases, e.study, e.cases_grid)))


def all_results(root: Path) -> None:
    """RESULTS.md: the paper's claims, and ours."""
    fill(root / "RESULTS.md", "claims", results(evidence(root)))
    fill(root / "RESULTS.md", "beyond", results([e for e in evidence(root) if e.controls is not None], BEYOND))


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
    "results": all_results,
}
ALIASES = {"fig05": "fig03", "fig06": "fig03", "fig08": "fig03", "fig09": "fig01", "fig10": "fig01"}


def _with(runs: pd.DataFrame | None, controls: pd.DataFrame | None) -> pd.DataFrame | None:
    """Runs of controls, and of the study's own arms that they leave out; None if it has the paper's arms alone."""
    if runs is None or controls is None:
        return controls if runs is None else runs if {"uniform", "random_subset"} & set(runs["init"]) else None
    return pd.concat([runs[~runs["init"].isin(controls["init"])], controls])


def _arms(runs: pd.DataFrame, *inits: str) -> pd.DataFrame:
    return runs[runs["init"].isin(inits)]
