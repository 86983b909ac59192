"""The studies that this project knows, and what is made in the folder of each."""

import math
import re
from pathlib import Path

import pandas as pd

from ..files import atomic
from .convergence import convergence_figure, convergence_table
from .speedup import Study
from .style import save
from .text import chance_text
from .tuning import effort_text, tuning_table

STDLIB = Study("tokens", "val_loss", math.log(220), tuned_for="final", shown=(0, 20_480, 102_400, 307_200))
# Early targets of studies that wait for a GPU are to be set when the first runs are there.
BOOKS = Study("tokens", "val_loss", math.log(60), tuned_for="final", shown=(0, 655_360, 3_276_800))
STUDIES = {
    # The early target is about nine tenths of the random arm's final accuracy.
    "digits": Study("epoch", "val_accuracy", 0.9, tuned_for="time", shown=(0, 1, 2, 5)),
    # About nine tenths of the random arm's best in the tuning grid.
    "vit_cifar10_cpu": Study("epoch", "val_accuracy", 0.4, tuned_for="final", shown=(0, 1, 2)),
    "vit_cifar10": Study("epoch", "val_accuracy", 0.7, tuned_for="final", shown=(0, 1, 3, 10)),
    # The early target is a perplexity half as high again as the random arm's best final one in the tuning grid.
    "gpt2_stdlib": STDLIB,
    "gpt2_stdlib_depth": STDLIB,
    "gpt2_books": BOOKS,
    "gpt2_books_depth": BOOKS,
}


def markdown(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def noted(table: pd.DataFrame) -> str:
    """`markdown`, and what is to be known of its columns: how arms were tuned, and how many were judged."""
    notes = [effort_text(table["tuning"])] if "tuning" in table else []
    notes += [chance_text((table[""] != "").sum())] if "" in table else []
    return f"{markdown(table)}\n{' '.join(notes)}\n" if notes else markdown(table)


def write(file: Path, text: str) -> None:
    with atomic(file) as temporary:
        temporary.write_text(text)


def fill(file: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`, if the file has such a place."""
    if not file.exists():
        return
    old = file.read_text()
    new = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + text + m[2], old, flags=re.DOTALL)
    if new != old:
        write(file, new)


def report(folder: Path, study: Study) -> str:
    """Make everything in a study's folder; return the table as Markdown."""
    runs = pd.read_csv(folder / "runs.csv")
    grid = pd.read_csv(folder / "grid.csv") if (folder / "grid.csv").exists() else None
    table = convergence_table(runs, study, grid)
    write(folder / "table.csv", table.to_csv(index=False))
    text = noted(table)
    write(folder / "table.md", text)
    save(convergence_figure(runs, study), folder / "convergence")
    if grid is not None:
        write(folder / "tuning.md", markdown(tuning_table(grid, study)))
    return text
