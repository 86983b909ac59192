"""Collect a study's finished runs: `python -m subcloning.collect digits --into experiments/digits`.

Writes runs.csv, the curves of all runs in one long table, and runs_provenance.json, which holds what is common to all
runs (config, code revision, packages, hardware) once, and what differs for each; without --into, to `report` beside the
runs. Figures and tables are made from these only. The runs are read from their folders, or with `--wandb
ENTITY/PROJECT` from W&B, or with `--wandb-files FOLDER` from W&B's own offline files below FOLDER.
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
from transformers.utils import flatten_dict

from .errors import SubcloningError
from .files import atomic
from .training.folder import DATA_PLACES, IDENTITY, NOT_IDENTITY, PARENT_PLACES
from .training.record import CURVE, read_json

TIMES = ("epoch", "tokens", "step")  # what a curve is drawn against
SETTING = ("lr", "weight_decay")
# In which an arm's runs may differ, beside what is no part of a run's identity.
FREE = (*NOT_IDENTITY, *DATA_PLACES, "seed", "data.seed", *(f"optim.{key}" for key in SETTING))


class Run(NamedTuple):
    """A finished run. curve: as its metrics.csv."""

    place: str
    config: dict
    provenance: dict
    seconds: float
    curve: pd.DataFrame

    @property
    def keys(self) -> dict:
        """Which run of its study it is: the columns beside its curve."""
        case = {"case": self.config["case"]} if self.config.get("case") else {}
        init, optim = self.config["init"]["name"], self.config["optim"]
        return {**case, "init": init, **{key: optim[key] for key in SETTING}, "seed": self.config["seed"]}

    @property
    def options(self) -> dict:
        """What else it was trained with, by dotted keys; not what is off, as is an option that older code had not."""
        known = flatten_dict({key: self.config.get(key) for key in (*IDENTITY, "case")})
        known |= flatten_dict({"contents": {key: self.provenance.get(key) for key in ("parent", "data")}})
        # Where the parent lay counts only for runs that do not know its contents.
        free = tuple(f"{key}." for key in (*FREE, *(PARENT_PLACES if "parent" in self.provenance else ())))
        return {key: value for key, value in known.items() if value and not f"{key}.".startswith(free)}


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
        yield from _of_wandb(run.id, dict(run.config), dict(run.summary), run.scan_history())


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
        if config.get("name", experiment) == experiment:
            yield from _of_wandb(name, config, known[-1]["summary"], rows)


def _inspect(file: Path, *options: str) -> list[dict]:
    """What W&B's own reader prints of an offline file."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", *options, str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SubcloningError(f"W&B cannot read {file}: {found.stderr.strip()}")
    return [json.loads(line) for line in ([found.stdout] if options else found.stdout.splitlines())]


def _of_wandb(name: str, config: dict, summary: dict, rows: Iterable[dict]) -> Iterator[Run]:
    """The run, if it finished."""
    if "seconds" not in summary:
        print(f"left out, not finished: {name}")
        return
    rows = [{key.removeprefix(CURVE): value for key, value in row.items() if key.startswith(CURVE)} for row in rows]
    curve = pd.DataFrame([row for row in rows if row]).drop_duplicates("step", keep="last").sort_values("step")
    first = set(curve.columns[curve.iloc[0].notna()])
    ranked = sorted(curve, key=lambda key: (TIMES.index(key) if key in TIMES else 9, key not in first, key))
    curve = curve[ranked].astype(float)  # W&B's NaN is text
    for key in ranked:  # as metrics.csv has them, so that both ways give the same table
        if key in TIMES and (curve[key] % 1 == 0).all():
            curve[key] = curve[key].astype(int)
        else:
            curve[key] = curve[key].map(lambda value: float(f"{value:.6g}"))
    provenance = config.pop("provenance")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    yield Run(name, config, provenance, summary["seconds"], curve)


def _text(value: object) -> str:
    """W&B does not tell 1.0 from 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _at_tuned_setting(run: Run) -> bool:
    setting = {key: run.keys[key] for key in SETTING}
    tuned = (run.config.get("tuned") or {}).get(run.keys["init"], setting)
    if tuned != setting:
        print(f"left out, not at its tuned setting: {run.place}")
    return tuned == setting


def _check(runs: list[Run]) -> None:
    """Each run once; name and data are the same in all, options of init in an arm, other options in a case."""
    cases = all("case" in run.keys for run in runs)
    known = sorted({key for run in runs for key in run.options})
    twins, firsts = {}, {}
    for run in runs:
        case, mine = run.keys["case"] if cases else None, run.options
        groups = {"name": (), "data": (), "init": (case, run.keys["init"])}
        differing: dict[str, list[str]] = {}
        for key in known:
            group = groups.get(key.split(".")[0], (case,))
            if key.startswith(("contents.", "parent.weights.")):  # not recorded for all: random weights have no parent
                group = (case, key in mine)
            place, others = firsts.setdefault((key, group), (run.place, mine))
            if others.get(key) != mine.get(key):
                differing.setdefault(place, []).append(f"{key} = {others.get(key, 'off')} and {mine.get(key, 'off')}")
        if differing:
            place, what = next(iter(differing.items()))
            raise SubcloningError(
                f"{place} and {run.place} are not of one study: {', '.join(what)}. Give each study its own name "
                "(name=...), or move away the runs that do not belong to this one"
            )
        if twin := twins.get(keys := tuple(run.keys.values())):
            raise SubcloningError(f"{twin} and {run.place} are the same run, {run.keys}: move one of them away")
        twins[keys] = run.place


def collect(runs: Iterable[Run], target: Path, stem: str = "runs") -> pd.DataFrame:
    """Write `target`/STEM.csv and STEM_provenance.json; return the curves.

    Raises SubcloningError where there is no run, one is there twice, or runs of one study, case or arm were trained
    with different options.
    """
    runs = [run for run in runs if _at_tuned_setting(run)]
    if not runs:
        raise SubcloningError("no finished run: run the experiment first (configs/experiment)")
    _check(runs)
    keys = list(runs[0].keys)
    table = pd.concat(run.curve.assign(**run.keys) for run in runs).sort_values([*keys, "step"])
    # Speed belongs to the machine and its other load: it stays in each run's own metrics.csv.
    table = table[[*keys, *(column for column in table if column not in (*keys, "tokens_per_second", "mfu"))]]
    records = [{"config": run.config, "provenance": run.provenance, "seconds": run.seconds} for run in runs]
    flat = pd.json_normalize(records).map(_text).sort_index(axis=1)
    common = [column for column in flat if flat[column].nunique() == 1]
    provenance = {"common": flat.loc[0, common].to_dict(), "runs": flat.drop(columns=common).to_dict("records")}
    with atomic(target / f"{stem}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    with atomic(target / f"{stem}_provenance.json") as temporary:
        temporary.write_text(json.dumps(provenance, indent=1) + "\n")
    print(f"collected {len(runs)} runs into {target}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment whose runs to collect, such as digits")
    parser.add_argument("--into", type=Path, help="folder to write to (default: report, beside the runs)")
    parser.add_argument("--stem", default="runs", help="STEM.csv and STEM_provenance.json are written (default: runs)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read from W&B instead of the runs' folders")
    source.add_argument("--wandb-files", type=Path, metavar="FOLDER", help="read from W&B's offline files below FOLDER")
    args = parser.parse_args()
    folder = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / args.experiment
    if args.wandb:
        runs = from_wandb(args.wandb, args.experiment)
    elif args.wandb_files:
        runs = from_wandb_files(args.wandb_files, args.experiment)
    else:
        runs = from_folders(folder)
    collect(runs, args.into or folder / "report", args.stem)


if __name__ == "__main__":
    main()
