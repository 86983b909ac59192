"""Collect a study's finished runs: `python -m subcloning.collect digits --into experiments/digits`.

Writes runs.csv, one row for each run with its curve, and runs.json, what the runs have in common (config, code
revision, packages, hardware, contents of the data); without --into, to `report` beside the runs. Figures and tables are
made from these only. The runs are read from their folders, or with `--wandb ENTITY/PROJECT` from W&B. With `--keep`,
runs that stand in STEM.csv already stay there, as where a study is made on several machines, or at several times.
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import yaml

from .analysis.runs import TIMES, nested, read_records, read_runs, write_runs
from .errors import SubcloningError
from .training.finished import Run, check, plain
from .training.record import CURVE, read_json


def from_folders(source: Path) -> Iterator[Run]:
    """Every finished run below `source`."""
    for folder in sorted(file.parent for file in source.glob("**/metrics.csv")):
        if not (folder / "summary.json").exists():
            print(f"left out, not finished: {folder}")
            continue
        yield Run(
            str(folder),
            yaml.safe_load((folder / "config.yaml").read_text()),
            read_json(folder / "provenance.json"),
            read_json(folder / "summary.json")["seconds"],
            pd.read_csv(folder / "metrics.csv"),
        )


def from_wandb(project: str, experiment: str) -> Iterator[Run]:
    """Every finished run of `experiment` in the W&B `project`, an entity and a name with a stroke between."""
    import wandb

    for run in wandb.Api().runs(project, filters={"config.name": experiment}):
        config, seconds = dict(run.config), dict(run.summary).get("seconds")
        if seconds is None:
            print(f"left out, not finished: {run.id}")
            continue
        provenance = config.pop("provenance")
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        yield Run(run.id, config, provenance, seconds, _curve(run.scan_history()))


def _curve(rows: Iterable[dict]) -> pd.DataFrame:
    """What W&B has of a run, as metrics.csv has it."""
    by_step = {}
    for row in rows:
        own = {key.removeprefix(CURVE): row[key] for key in sorted(row) if key.startswith(CURVE)}
        if own:
            times = {key: own.pop(key) for key in TIMES if key in own}
            by_step[times["step"]] = times | {key: float(f"{float(own[key]):.6g}") for key in own}  # NaN is text
    return pd.DataFrame([by_step[step] for step in sorted(by_step)])


def from_record(file: Path) -> Iterator[Run]:
    """Every run that was collected into `file`, as far as that says what it was."""
    for keys, known, curve in read_records(file):
        config = nested(known)
        provenance = config.pop("provenance", {})
        config.setdefault("init", {})["name"] = keys["init"]
        config.setdefault("optim", {}).update({key: keys[key] for key in ("lr", "weight_decay")})
        config |= {key: keys[key] for key in ("case", "seed") if key in keys}
        yield Run(f"{file}, {keys['init']}, seed {keys['seed']}", config, provenance, keys["seconds"], curve)


def collect(runs: Iterable[Run], target: Path, stem: str = "runs", keep: bool = False) -> pd.DataFrame:
    """Write `target`/STEM.csv and STEM.json (see `analysis.runs`); return the curves.

    keep: what stands there already, too, but for the runs that are among `runs` again.

    Raises SubcloningError where there is no run, one is there twice, or runs of one study, case or arm were trained
    with different options.
    """
    runs = [*runs]
    if keep and (file := target / f"{stem}.csv").exists():
        found = [run.keys for run in runs]
        runs += (run for run in from_record(file) if run.keys not in found)
    if not runs:
        raise SubcloningError("no finished run: run the experiment first (configs/experiment)")
    check(runs)
    runs.sort(key=lambda run: tuple(run.keys.values()))
    write_runs(
        target / f"{stem}.csv",
        [{**run.keys, "seconds": plain(run.seconds)} for run in runs],
        [run.described for run in runs],
        [run.curve for run in runs],
    )
    print(f"collected {len(runs)} runs into {target}")
    return read_runs(target / f"{stem}.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment whose runs to collect, such as digits")
    parser.add_argument("--into", type=Path, help="folder to write to (default: report, beside the runs)")
    parser.add_argument("--stem", default="runs", help="STEM.csv and STEM.json are written (default: runs)")
    parser.add_argument("--keep", action="store_true", help="what stands in STEM.csv stays there, with what is found")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read from W&B instead of the runs' folders")
    args = parser.parse_args()
    folder = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / args.experiment
    runs = from_wandb(args.wandb, args.experiment) if args.wandb else from_folders(folder)
    collect(runs, args.into or folder / "report", args.stem, args.keep)


if __name__ == "__main__":
    main()
