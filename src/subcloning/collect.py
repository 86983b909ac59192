"""Collect a study's finished runs into experiments/NAME: `python -m subcloning.collect digits`.

Writes runs.csv, the curves of all runs in one long table, and runs_provenance.json, which holds what is common to all
runs (config, code revision, packages, hardware) once, and what differs for each. Figures and tables are made from these
only. The runs are read from their folders, or with `--wandb ENTITY/PROJECT` from W&B, or with `--wandb-files FOLDER`
from W&B's own offline files below FOLDER.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from .axes import SubcloningError
from .files import atomic
from .training.record import CURVE


class Run(NamedTuple):
    """A finished run. curve: as its metrics.csv."""

    place: str
    config: dict
    provenance: dict
    seconds: float
    curve: pd.DataFrame


def from_folders(source: Path) -> Iterator[Run]:
    """Every finished run below `source`."""
    for folder in sorted(file.parent for file in source.glob("**/summary.json")):
        yield Run(
            str(folder),
            yaml.safe_load((folder / "config.yaml").read_text()),
            json.loads((folder / "provenance.json").read_text()),
            json.loads((folder / "summary.json").read_text())["seconds"],
            pd.read_csv(folder / "metrics.csv"),
        )


def from_wandb(project: str, experiment: str) -> Iterator[Run]:
    """Every finished run of `experiment` in the W&B `project`, an entity and a name with a stroke between."""
    import wandb

    for run in wandb.Api().runs(project, filters={"config.name": experiment, "state": "finished"}):
        yield _of_wandb(run.name, dict(run.config), dict(run.summary), run.scan_history())


def from_wandb_files(source: Path, experiment: str) -> Iterator[Run]:
    """Every finished run of `experiment` in W&B's offline files below `source`; one in pieces is put together."""
    pieces: dict[str, list[Path]] = {}
    for file in sorted(source.glob("**/offline-run-*/*.wandb")):
        pieces.setdefault(file.stem, []).append(file)
    for name, files in pieces.items():
        known = [_inspect(file, "--summary")[0] for file in files]
        records = [record for file in files for record in _inspect(file)]
        rows = [record["history"]["item"] for record in records if record.get("type") == "history"]
        config = {key: value for piece in known for key, value in piece["config"].items()}
        if config.get("name") == experiment and "seconds" in known[-1]["summary"]:
            yield _of_wandb(name, config, known[-1]["summary"], rows)


def _inspect(file: Path, *options: str) -> list[dict]:
    """What W&B's own reader prints of an offline file."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", *options, str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SubcloningError(f"W&B cannot read {file}: {found.stderr.strip()}")
    return [json.loads(line) for line in ([found.stdout] if options else found.stdout.splitlines())]


def _of_wandb(name: str, config: dict, summary: dict, rows: Iterable[dict]) -> Run:
    rows = [{key.removeprefix(CURVE): value for key, value in row.items() if key.startswith(CURVE)} for row in rows]
    curve = pd.DataFrame([row for row in rows if row]).drop_duplicates("step", keep="last").sort_values("step")
    first = set(curve.columns[curve.iloc[0].notna()])
    order = ["epoch", "tokens", "step"]
    ranked = sorted(curve, key=lambda key: (order.index(key) if key in order else 9, key not in first, key))
    # With metrics.csv's digits, so that both ways give the same table.
    curve = curve[ranked].map(lambda value: float(f"{value:.6g}")).astype({"step": int})
    provenance = config.pop("provenance")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return Run(name, config, provenance, summary["seconds"], curve)


def _text(value: object) -> str:
    """W&B does not tell 1.0 from 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def collect(runs: Iterable[Run], target: Path, stem: str = "runs") -> pd.DataFrame:
    """Write `target`/STEM.csv and STEM_provenance.json; return the curves."""
    curves, records = [], []
    for run in runs:
        init, setting = run.config["init"]["name"], {key: run.config["optim"][key] for key in ("lr", "weight_decay")}
        if (run.config.get("tuned") or {}).get(init, setting) != setting:
            print(f"left out, not at its tuned setting: {run.place}")
            continue
        case = {"case": run.config["case"]} if run.config.get("case") else {}
        keys = {**case, "init": init, **setting, "seed": run.config["seed"]}
        curves.append(run.curve.assign(**keys))
        records.append({"config": run.config, "provenance": run.provenance, "seconds": run.seconds})
    if not curves:
        raise SubcloningError("no finished run: run the experiment first (configs/experiment)")
    models = {tuple(record["config"][group]["name"] for group in ("parent", "destination")) for record in records}
    if len(models) != 1 and not case:
        raise SubcloningError(f"runs of several parents and destinations, {sorted(models)}: give each its name=")
    table = pd.concat(curves).sort_values([*keys, "step"])
    # Speed belongs to the machine and its other load: it stays in each run's own metrics.csv.
    table = table[[*keys, *(column for column in table if column not in (*keys, "tokens_per_second", "mfu"))]]
    flat = pd.json_normalize(records).map(_text).sort_index(axis=1)
    common = [column for column in flat if flat[column].nunique() == 1]
    provenance = {"common": flat.loc[0, common].to_dict(), "runs": flat.drop(columns=common).to_dict("records")}
    with atomic(target / f"{stem}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    with atomic(target / f"{stem}_provenance.json") as temporary:
        temporary.write_text(json.dumps(provenance, indent=1) + "\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment whose runs to collect, such as digits")
    parser.add_argument("--into", type=Path, help="folder to write to (default: experiments/EXPERIMENT)")
    parser.add_argument("--stem", default="runs", help="STEM.csv and STEM_provenance.json are written (default: runs)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read from W&B instead of the runs' folders")
    source.add_argument("--wandb-files", type=Path, metavar="FOLDER", help="read from W&B's offline files below FOLDER")
    args = parser.parse_args()
    if args.wandb:
        runs = from_wandb(args.wandb, args.experiment)
    elif args.wandb_files:
        runs = from_wandb_files(args.wandb_files, args.experiment)
    else:
        runs = from_folders(Path(os.environ.get("SUBCLONING_RUNS", "runs")) / args.experiment)
    table = collect(runs, args.into or Path("experiments") / args.experiment, args.stem)
    keys = [key for key in ("case", "init", "lr", "weight_decay", "seed") if key in table]
    print(f"collected {table.groupby(keys).ngroups} runs")


if __name__ == "__main__":
    main()
