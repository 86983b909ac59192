"""Tables, figures and results from committed runs, without training.

    python -m subcloning.analysis                      everything below experiments/
    python -m subcloning.analysis digits               a study: its table and figure
    python -m subcloning.analysis fig11                a figure of the paper
    python -m subcloning.analysis fig02 experiment=fig09_vit   Fig. 2, 3, 5, 6 or 8 of any parent, measured now

A study's folder has runs.csv (and grid.csv, where it was tuned); it gets table.csv, table.md, tuning.md,
convergence.png and convergence.pdf, and README.md the table where that names it. What is measured of a parent goes to
FOLDER/blocks.csv or units.csv (default folder: runs/analysis/PARENT), and figures beside it, but for a study's folder.
"""

import argparse
from pathlib import Path

from omegaconf import DictConfig

from ..errors import SubcloningError
from ..resolvers import composed
from .evidence import evidence, read_evidence
from .figures import ALIASES, FIGURES, draw_blocks, draw_units, report
from .runs import write_blocks, write_units
from .study import STUDIES
from .tables import fill

# Figure -> (what is measured of a parent, and its file's name; what writes and draws it).
OF_PARENTS = {"fig02": ("blocks", write_blocks, draw_blocks), "fig03": ("units", write_units, draw_units)}


def everything(root: Path) -> None:
    """All studies and figures below `root` whose data are there, and the tables in the README beside it."""
    found = evidence(root)
    for e in found:
        fill(root.parent / "README.md", e.study.name, report(root / e.study.name, e))
    for make in FIGURES.values():
        make(root, found)


def measure(name: str, cfg: DictConfig, folder: Path) -> Path:
    """Measure the parent of `cfg` (configs/train.yaml) into `folder`, draw it beside, and return the file.

    A study's own folder gets the file alone: its figures are made where the other studies' are.
    """
    from .measure import measure_blocks, measure_units  # Lightning, which nothing else here needs

    if name not in OF_PARENTS:
        raise SubcloningError(f"{name} is of runs, not of a parent: only {', '.join(OF_PARENTS)} can be measured")
    what, write, draw = OF_PARENTS[name]
    file = folder / f"{what}.csv"
    table = {"blocks": measure_blocks, "units": measure_units}[what](cfg)
    write(file, table)
    if not (folder / "study.yaml").exists():
        draw(table, file.with_suffix(""))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted([*STUDIES, *FIGURES, *ALIASES])
    parser.add_argument("name", nargs="?", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("overrides", nargs="*", help="of a parent to measure, as for subcloning.train")
    parser.add_argument("--folder", type=Path, help="of the study's runs.csv; otherwise in place of experiments")
    args = parser.parse_args()
    name = ALIASES.get(args.name, args.name)
    root = args.folder or Path("experiments")
    if args.overrides:
        cfg = composed(*args.overrides)
        print(measure(name, cfg, args.folder or Path(cfg.runs) / "analysis" / cfg.parent.name))
    elif name is None:
        everything(root)
    elif name in FIGURES:
        FIGURES[name](root, evidence(root))
    else:
        folder = args.folder or root / name
        if not (folder / "runs.csv").exists():
            raise SubcloningError(f"there is no {folder}/runs.csv: experiments/{name}/run.sh makes it")
        text = report(folder, read_evidence(folder, STUDIES[name]))
        if not args.folder:
            fill(Path("README.md"), name, text)
        print(text)


if __name__ == "__main__":
    main()
