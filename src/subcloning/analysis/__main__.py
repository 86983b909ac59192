"""Tables, figures and results from committed runs, without training.

    python -m subcloning.analysis                      everything below experiments/
    python -m subcloning.analysis digits               a study: its table and figure
    python -m subcloning.analysis fig11                a figure of the paper
    python -m subcloning.analysis fig02 experiment=fig09_vit   Fig. 2, 3, 5, 6 or 8 of any parent, measured now

A study's folder has runs.csv (and grid.csv, where it was tuned); it gets table.csv, table.md, tuning.md,
convergence.png and convergence.pdf, and README.md the table where that names it. What is measured of a parent goes to
FOLDER/blocks.csv or units.csv, and figures beside it (default folder: runs/analysis/PARENT).
"""

import argparse
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ..errors import SubcloningError
from ..files import ROOT
from .figures import ALIASES, FIGURES, draw_blocks, draw_units
from .parents import measure_blocks, measure_units
from .runs import write_blocks, write_units
from .studies import fill, report
from .study import STUDIES

# Figure -> (what is measured of a parent, its file, what writes it, what draws it).
OF_PARENTS = {
    "fig02": (measure_blocks, "blocks.csv", write_blocks, draw_blocks),
    "fig03": (measure_units, "units.csv", write_units, draw_units),
}


def everything(root: Path) -> None:
    """All studies and figures below `root` whose data are there, and the tables in the README beside it."""
    for name, study in STUDIES.items():
        if (root / name / "runs.csv").exists():
            fill(root.parent / "README.md", name, report(root / name, study))
    for make in FIGURES.values():
        make(root)


def measure(name: str, cfg: DictConfig, folder: Path) -> Path:
    """Measure the parent of `cfg` (configs/train.yaml) into `folder`, and draw; return the file."""
    if name not in OF_PARENTS:
        raise SubcloningError(f"{name} is of runs, not of a parent: only {', '.join(OF_PARENTS)} can be measured")
    function, part, write, draw = OF_PARENTS[name]
    file = folder / part
    table = function(cfg)
    write(file, table)
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
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("train", overrides=args.overrides)
        print(measure(name, cfg, args.folder or Path(cfg.runs) / "analysis" / cfg.parent.name))
    elif name is None:
        everything(root)
    elif name in FIGURES:
        FIGURES[name](root)
    else:
        text = report(args.folder or root / name, STUDIES[name])
        if not args.folder:
            fill(Path("README.md"), name, text)
        print(text)


if __name__ == "__main__":
    main()
