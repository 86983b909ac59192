"""Print a tuning grid's winners as overrides for the study: `python -m subcloning.tuned gpt2_stdlib`.

Reads experiments/STUDY/grid.csv (or FOLDER/grid.csv) and judges it as the study is judged.
"""

import argparse
from pathlib import Path

from .analysis.runs import read_runs
from .analysis.speedup import best_settings
from .analysis.study import STUDIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--folder", type=Path, help="where grid.csv is (default: experiments/STUDY)")
    args = parser.parse_args()
    grid = read_runs((args.folder or Path("experiments") / args.study) / "grid.csv")
    for init, row in best_settings(grid, STUDIES[args.study]).iterrows():
        print(f"tuned.{init}.lr={row['lr']:g} tuned.{init}.weight_decay={row['weight_decay']:g}")


if __name__ == "__main__":
    main()
