"""Make a study's table and figure from its committed runs: `python -m subcloning.analysis digits`.

Reads experiments/NAME/runs.csv (and grid.csv, where the study was tuned); writes table.csv, table.md, tuning.md,
convergence.png and convergence.pdf beside it, and puts the table into README.md where that names it.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from ..files import atomic
from .convergence import convergence_figure, convergence_table
from .speedup import best_settings, times_to_target
from .style import LABELS, save

TARGETS = {"digits": 0.9}  # the early target: about nine tenths of the random arm's final accuracy


def markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def tuning_table(grid: pd.DataFrame, target: float) -> pd.DataFrame:
    """Mean epochs to `target` by init mode and weight decay (rows) and learning rate (columns); best in bold."""
    epochs = times_to_target(grid, target).groupby(["init", "lr", "weight_decay"]).mean()
    best = best_settings(grid, target)
    rows = []
    for init in [name for name in LABELS if name in best.index]:
        for decay in sorted(grid["weight_decay"].unique()):
            row = {"init": init, "WD": f"{decay:g}"}
            for lr in sorted(grid["lr"].unique()):
                value = epochs.get((init, lr, decay), float("nan"))
                text = f"> {grid['epoch'].max()}" if value == float("inf") else f"{value:.1f}"
                row[f"LR {lr:g}"] = (
                    f"**{text}**" if (lr, decay) == tuple(best.loc[init, ["lr", "weight_decay"]]) else text
                )
            rows.append(row)
    return pd.DataFrame(rows)


def put_into_readme(readme: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`, if the file has such a place."""
    if not readme.exists():
        return
    old = readme.read_text()
    new = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + text + m[2], old, flags=re.DOTALL)
    if new != old:
        with atomic(readme) as temporary:
            temporary.write_text(new)


def report(folder: Path, target: float) -> str:
    """Make everything in a study's folder; return the table as Markdown."""
    runs = pd.read_csv(folder / "runs.csv")
    table = convergence_table(runs, target)
    with atomic(folder / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    text = markdown(table)
    with atomic(folder / "table.md") as temporary:
        temporary.write_text(text)
    save(convergence_figure(runs, target), folder / "convergence")
    if (folder / "grid.csv").exists():
        with atomic(folder / "tuning.md") as temporary:
            temporary.write_text(markdown(tuning_table(pd.read_csv(folder / "grid.csv"), target)))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(TARGETS))
    study = parser.parse_args().study
    folder = Path("experiments") / study
    text = report(folder, TARGETS[study])
    put_into_readme(Path("README.md"), study, text)
    print(text)
    print(f"also in {folder}: table.csv, table.md, convergence.png, convergence.pdf")


if __name__ == "__main__":
    main()
