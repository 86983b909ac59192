"""Records: runs as `subcloning.collect` writes them, and what `subcloning.analysis` measured of a parent's units.

STEM.csv has one row for each run: which one it is (`KEYS`), what else is its own by dotted keys of its config (where
`provenance` stands too), seconds, and from `epoch` or `tokens` on its curve, in each column all values with spaces
between. STEM.json has what is `common` to all runs, what each init mode in `arms` and each case in `cases` has besides,
and the table's SHA-256 as `csv`. A run's config and provenance are all that these say of it, taken together.
"""

import hashlib
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from transformers.utils import flatten_dict

from ..errors import SubcloningError
from ..files import atomic

KEYS = ("case", "init", "lr", "weight_decay", "seed")  # case: where there are several
TIMES = ("epoch", "tokens", "step")  # what a curve is drawn against
WIDTH = 120  # of a line of STEM.json
WAY_OUT = "Make it again, or convert it with migrate_records.py of commit 4f8a095812"


def read_runs(file: Path) -> pd.DataFrame:
    """The curves of all runs in `file`, one row for each validation.

    Columns: case (where there are several), init, lr, weight_decay, seed; epoch or tokens, and step; metrics.
    """
    table, curve = _table(file)
    return _exploded(table[[*(key for key in KEYS if key in table), *curve]], curve)


def read_records(file: Path) -> list[tuple[dict, dict, pd.DataFrame]]:
    """What `write_runs` was given, for each run: `KEYS` and seconds; what else is known of it; its curve."""
    table, curve = _table(file)
    record = json.loads(file.with_suffix(".json").read_text())
    found = []
    for cells in table.to_dict("records"):
        run = {key: _value(cells[key]) for key in (*KEYS, "seconds") if key in cells}
        known = flatten_dict(record.get("common", {}))
        for name, mine in {"arms": run["init"], "cases": run.get("case")}.items():
            known |= flatten_dict(record.get(name, {}).get(mine, {}))
        own = [key for key in cells if key not in run and key not in curve and cells[key]]
        known |= {key: _value(cells[key]) for key in own}
        found.append((run, known, _exploded(pd.DataFrame([cells])[curve], curve)))
    return found


def _table(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """(the table as text, its columns that are curves)."""
    text, record = file.read_text(), file.with_suffix(".json")
    if "seconds" not in text.partition("\n")[0].split(","):
        raise SubcloningError(f"{file} has one row for each validation, an older form of a record. {WAY_OUT}")
    if not record.exists() or _digest(text) not in record.read_text():
        raise SubcloningError(f"{file} is not the table that goes with {record.name} beside it: collect the runs again")
    table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
    return table, [*table.columns[next(i for i, column in enumerate(table) if column in TIMES) :]]


def write_runs(file: Path, runs: Sequence[dict], described: Sequence[dict], curves: Sequence[pd.DataFrame]) -> None:
    """Write the table `file`, and its STEM.json beside it.

    runs: `KEYS` and `seconds` of each. described: what else is known of it, by dotted keys. curves: its validations.
    Where the machine dies between the two files, `read_runs` refuses what is there.
    """
    record, own = _parted(runs, described)
    times = [*dict.fromkeys(key for curve in curves for key in curve)]
    cells = [
        {key: _cell(value) for key, value in {**run, **mine}.items()} | {key: _in_one_cell(curve[key]) for key in curve}
        for run, mine, curve in zip(runs, own, (curve.reindex(columns=times) for curve in curves), strict=True)
    ]
    keys = [key for key in runs[0] if key != "seconds"]
    columns = [*keys, *dict.fromkeys(key for mine in own for key in mine), "seconds", *times]
    text = pd.DataFrame(cells, columns=columns).to_csv(index=False)
    with atomic(file) as table, atomic(file.with_suffix(".json")) as shared:
        table.write_text(text)
        shared.write_text(_layout({"csv": _digest(text), **record}) + "\n")


def _parted(runs: Sequence[dict], described: Sequence[dict]) -> tuple[dict[str, dict], list[dict]]:
    """What the runs share, `common`, `arms` and `cases`, and what is left of each; nothing stands twice."""
    inits, cases = ([run.get(key, "") for run in runs] for key in ("init", "case"))
    common: dict = {}
    arms: dict[str, dict] = {init: {} for init in inits}
    by_case: dict[str, dict] = {case: {} for case in cases}
    own: list[dict] = [{} for _ in runs]
    for key in sorted({key for known in described for key in known}):
        values = [json.dumps(known[key]) if key in known else None for known in described]
        if len(set(values)) == 1:
            places = [common] * len(runs)
        elif len(set(zip(inits, values, strict=True))) == len(arms):  # each arm has one
            places = [arms[init] for init in inits]
        elif len(set(zip(cases, values, strict=True))) == len(by_case):
            places = [by_case[case] for case in cases]
        else:
            places = own
        for place, known in zip(places, described, strict=True):
            if key in known:
                place[key] = known[key]
    record = {"common": nested(common)}
    for name, parts in {"arms": arms, "cases": by_case}.items():
        record[name] = {key: nested(part) for key, part in parts.items() if part}
    return {name: part for name, part in record.items() if part}, own


def nested(flat: dict[str, object]) -> dict:
    """{"a": {"b": 1}} for {"a.b": 1}."""
    whole: dict = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = whole
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return whole


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(cell: str) -> Any:
    """What `_cell` was given."""
    try:
        value = json.loads(cell)
    except ValueError:
        return cell
    return value if json.dumps(value) == cell else cell


def read_units(file: Path) -> pd.DataFrame:
    """Scores of a parent's units: axis, block, unit, score, one row each."""
    table = pd.read_csv(file, dtype={"score": str})
    if "unit" in table:
        raise SubcloningError(f"{file} has one row for each unit, an older form of a record. {WAY_OUT}")
    units = _exploded(table, ["score"])
    units.insert(2, "unit", units.groupby(["axis", "block"]).cumcount())
    return units


def write_blocks(file: Path, blocks: pd.DataFrame) -> None:
    """Write what was measured of a parent's blocks, one row each."""
    with atomic(file) as temporary:
        blocks.to_csv(temporary, index=False, float_format="%.5g")


def write_units(file: Path, units: pd.DataFrame) -> None:
    """Write what `read_units` gives, one row for each block of an axis."""
    table = units.groupby(["axis", "block"], sort=False)["score"].agg(_in_one_cell).reset_index()
    with atomic(file) as temporary:
        table.to_csv(temporary, index=False)


def _in_one_cell(values: pd.Series) -> str:
    """All values, to five digits if they are not integers, with spaces between; `nan` where there is none."""
    return " ".join(values.map(str if pd.api.types.is_integer_dtype(values) else "{:.5g}".format))


def _exploded(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One row for each of the values that stand in one cell of each of `columns`."""
    cells = {column: table[column].str.split() for column in columns}
    long = table.assign(**cells).explode([*columns])
    return pd.read_csv(StringIO(long.to_csv(index=False)))  # which tells numbers from text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _layout(value: object, indent: int = 0) -> str:
    """`value` as JSON: what fits stands on one line, so that files are short, and a change shows where it is."""
    if not isinstance(value, dict):
        return json.dumps(value)
    lines = []
    for key, part in value.items():
        name = f"{' ' * (indent + 1)}{json.dumps(key)}: "
        whole = name + json.dumps(part)
        lines.append(whole if len(whole) < WIDTH else name + _layout(part, indent + 1))
    return "{\n" + ",\n".join(lines) + f"\n{' ' * indent}}}"
