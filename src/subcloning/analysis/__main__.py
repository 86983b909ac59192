"""Make a study's table and figure from its committed runs: `python -m subcloning.analysis digits`.

Reads experiments/NAME/runs.csv (and grid.csv, where the study was tuned); writes table.csv, table.md, tuning.md,
convergence.png and convergence.pdf beside it, and puts the table into README.md where that names it.
"""

import argparse
import math
import re
from pathlib import Path

import pandas as pd

from ..files import atomic
from .convergence import convergence_figure, convergence_table, quality_text, time_text
from .speedup import SETTING, Study, best_settings, final, times_to_target
from .style import LABELS, save

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
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def tuning_table(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What the study is tuned for by init mode and weight decay (rows) and learning rate (columns), best in bold.

    Means over seeds: the time to the early target, or the final value.
    """
    by_time = study.tuned_for == "time"
    values = times_to_target(grid, study, study.target) if by_time else final(grid, study)
    values, best = values.groupby(SETTING).mean(), best_settings(grid, study)
    rows = []
    for init in [name for name in LABELS if name in best.index]:
        for decay in sorted(grid["weight_decay"].unique()):
            row = {"init": init, "WD": f"{decay:g}"}
            for lr in sorted(grid["lr"].unique()):
                value = values.get((init, lr, decay))
                if value is None:
                    text = ""
                elif value == float("inf"):
                    text = f"> {time_text(grid[study.time].max(), study, digits=0)}"
                else:
                    text = time_text(value, study) if by_time else quality_text(value, study)
                winner = (lr, decay) == tuple(best.loc[init, ["lr", "weight_decay"]])
                row[f"LR {lr:g}"] = f"**{text}**" if winner else text
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


def report(folder: Path, study: Study) -> str:
    """Make everything in a study's folder; return the table as Markdown."""
    runs = pd.read_csv(folder / "runs.csv")
    table = convergence_table(runs, study)
    with atomic(folder / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    text = markdown(table)
    with atomic(folder / "table.md") as temporary:
        temporary.write_text(text)
    save(convergence_figure(runs, study), folder / "convergence")
    if (folder / "grid.csv").exists():
        with atomic(folder / "tuning.md") as temporary:
            temporary.write_text(markdown(tuning_table(pd.read_csv(folder / "grid.csv"), study)))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--folder", type=Path, help="the folder of runs.csv (default: experiments/STUDY)")
    args = parser.parse_args()
    folder = args.folder or Path("experiments") / args.study
    text = report(folder, STUDIES[args.study])
    if not args.folder:
        put_into_readme(Path("README.md"), args.study, text)
    print(text)
    print(f"also in {folder}: table.csv, table.md, convergence.png, convergence.pdf")


if __name__ == "__main__":
    main()
