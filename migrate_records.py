"""Convert records of the form before version 0.2: `python migrate_records.py experiments`.

    STEM.csv, one row for each validation, with STEM_provenance.json  ->  STEM.csv, one row for each run, with STEM.json
    units.csv, one row for each unit                                  ->  units.csv, one row for each block of an axis

The old files of all are replaced only when what is read back says the same, and the counts of that are printed:

- `read_runs` and `read_units` give the very table that `pd.read_csv` gave of the old file;
- each kept key of each run has the value that its old text says: True, None and numbers typed, 1 for 1.0, paths below
  the runs', corpora's and images' folders without what lies above, other absolute ones as their last two parts. The old
  text "nan" is null for an option whose null says something and that has no parts in that run (NULLABLE). Elsewhere it
  is no key: the run's code had not got that option, or it was null, which the old form did not tell apart.
"""

import csv
import json
import sys
import tempfile
from ast import literal_eval
from collections import Counter
from pathlib import Path

import pandas as pd
from transformers.utils import flatten_dict

from subcloning.analysis.runs import KEYS, read_runs, read_units, write_runs, write_units
from subcloning.training.finished import NOT_ITS_OWN, ROOTS, Run, plain

NULLABLE = ("config.init.select", "config.parent.weights")
TEXTS = ("revision", "python", "packages", "sha256", "precision", "name", "case")  # never numbers


def old_runs(file: Path) -> list[dict[str, str]]:
    """Old dotted key -> old text, of each run."""
    old = json.loads(file.read_text())
    return [{**old["common"], **run} for run in old["runs"]]


def typed(key: str, text: str) -> object:
    if any(part.endswith(TEXTS) for part in key.split(".")):
        return None if text == "None" else text
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def kept(run: dict[str, str], dropped: Counter) -> dict[str, object]:
    """Old dotted key -> value, of what a run keeps."""
    found = {}
    for key, text in run.items():
        top, name = key.split(".")[0], ".".join(key.split(".")[:2])
        parts = any(other.startswith(f"{key}.") and run[other] != "nan" for other in run)
        if top == "config" and name.removeprefix("config.") in NOT_ITS_OWN:
            dropped[name] += 1
            if name == "config.recipe":  # made into the values of the data and the parent
                same = run.get(key.replace("config.recipe", "config.data.recipe"), text)
                assert same == text, (key, text, same)
        elif text != "nan":
            found[key] = typed(key, text)
        elif key in NULLABLE and not parts:
            found[key] = None
        else:
            dropped["nan: null or not there, " + key] += 1
    return found


def as_run(run: dict[str, str], dropped: Counter, curve: pd.DataFrame) -> Run:
    whole: dict = {}
    for key, value in kept(run, dropped).items():
        *parents, last = key.split(".")
        place = whole
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    roots = {key: run[f"config.{key}"] for key in ROOTS if f"config.{key}" in run}
    return Run("", {**whole["config"], **roots}, whole["provenance"], float(run["seconds"]), curve)


def says(value: object, text: str, roots: dict[str, str]) -> bool:
    """Whether a recorded `value` is what the old `text` said."""
    if isinstance(value, bool) or value is None:
        return text == str(value) or (value is None and text == "nan")
    if isinstance(value, int | float):
        return value == float(text)
    if isinstance(value, list):
        return value == literal_eval(text)
    if text.startswith("/"):
        inside = any(text == f"{root}/{value.removeprefix(name + '/')}" for name, root in roots.items())
        return inside or (text.endswith("/" + value) and value.count("/") == 1)
    return value == text


def read_back(file: Path) -> list[dict[str, object]]:
    """Dotted key -> value of each run, from STEM.csv and STEM.json alone; of the row's own, text."""
    record = json.loads(file.with_suffix(".json").read_text())
    shared = flatten_dict(record["common"])
    found = []
    with file.open() as opened:
        for row in csv.DictReader(opened):
            arm, case = (flatten_dict(record.get(part, {}).get(row.get(key), {})) for part, key in WHERE)
            first = list(row).index("seconds")
            own = {key: text for key, text in list(row.items())[:first] if key not in KEYS and text}
            keys = {name: row[key] for key, name in NAMES.items() if key in row}
            found.append({**shared, **arm, **case, **own, **keys, "seconds": row["seconds"]})
    return found


WHERE = (("arms", "init"), ("cases", "case"))
NAMES = {"case": "case", "init": "init.name", "lr": "optim.lr", "weight_decay": "optim.weight_decay", "seed": "seed"}


def migrate_runs(file: Path, counts: Counter, dropped: Counter) -> None:
    provenance = file.with_name(f"{file.stem}_provenance.json")
    old_table, old = pd.read_csv(file), old_runs(provenance)
    keys = [key for key in KEYS if key in old_table]
    curves = {
        tuple(key): own.drop(columns=keys) for key, own in old_table.groupby(keys, sort=False)
    }  # in the table's order
    assert sum(map(len, curves.values())) == len(old_table)
    by_keys = {}
    for run in old:
        key = tuple(
            float(run[f"config.{NAMES[k]}"]) if k not in ("case", "init") else run[f"config.{NAMES[k]}"] for k in keys
        )
        assert key not in by_keys
        by_keys[key] = run
    assert set(by_keys) == set(curves), file
    runs = [as_run(by_keys[key], dropped, curve) for key, curve in curves.items()]
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / file.name
        write_runs(
            new,
            [{**run.keys, "seconds": plain(run.seconds)} for run in runs],
            [run.described for run in runs],
            [run.curve for run in runs],
        )
        pd.testing.assert_frame_equal(read_runs(new), old_table, check_exact=True)
        text = pd.read_csv(file, dtype=str, keep_default_na=False).replace({"train_loss": {"": "nan"}})
        for (_, row), (key, curve) in zip(pd.read_csv(new, dtype=str).iterrows(), curves.items(), strict=True):
            for column in curve:  # digit for digit
                assert row[column].split() == text.loc[curve.index, column].tolist(), (file, key, column)
        for key, back in zip(curves, read_back(new), strict=True):
            run = by_keys[key]
            roots = {name: run[f"config.{name}"] for name in ROOTS if f"config.{name}" in run}
            wanted = kept(run, Counter())
            assert run["config.data.seed"] == run["config.seed"]
            for name, was in wanted.items():
                here = name.removeprefix("config.")
                if here == "data.seed" or (here == "case" and was is None):  # the run's seed; no column: no case
                    dropped[f"said by the columns, {name}"] += 1
                    continue
                value = back.pop(here)
                own = isinstance(value, str) and not isinstance(was, str)  # a cell of the table
                value = json.loads(value) if own else value
                assert says(value, run[name], roots), (file, name, value, run[name])
                counts["values"] += 1
            assert not back, (file, back)
        counts["files"] += 1
        counts["runs"] += len(runs)
        counts["validations"] += len(old_table)
        file.write_text(new.read_text())
        file.with_suffix(".json").write_text(new.with_suffix(".json").read_text())
    provenance.unlink()


def migrate_units(file: Path, counts: Counter) -> None:
    old = pd.read_csv(file)
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / file.name
        write_units(new, old)
        pd.testing.assert_frame_equal(read_units(new), old, check_exact=True)
        file.write_text(new.read_text())
    counts["tables of units"] += 1
    counts["units"] += len(old)


def main() -> None:
    root = Path(sys.argv[1])
    counts, dropped = Counter(), Counter()
    for provenance in sorted(root.glob("**/*_provenance.json")):
        migrate_runs(provenance.with_name(provenance.name.replace("_provenance.json", ".csv")), counts, dropped)
    for file in sorted(root.glob("**/units.csv")):
        if "unit" in file.open().readline().strip().split(","):
            migrate_units(file, counts)
    print("read back, and the same: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    print("dropped, values of all runs together:")
    for key, n in sorted(dropped.items()):
        print(f"  {n:7d} {key}")


if __name__ == "__main__":
    main()
