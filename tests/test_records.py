"""Records are read back as they were written, and what is not one is refused."""

import json
from itertools import product

import pandas as pd
import pytest
from records import write_record
from transformers.utils import flatten_dict

from subcloning import SubcloningError
from subcloning.analysis.runs import KEYS, read_runs, read_units, write_runs, write_units

CURVES = pd.DataFrame(
    {
        "case": ["b", "b", "b", "a", "a"],  # in this order
        "init": ["subclone"] * 3 + ["random, of a kind"] * 2,
        "lr": [1e-3] * 3 + [2.0] * 2,
        "weight_decay": [0.05] * 5,
        "seed": [0] * 5,
        "epoch": [0, 0.5, 1, 0, 0.5],
        "step": [0, 786_432_000, 1_572_864_000, 0, 7],
        "val_loss": [2.3026, 1e-7, float("inf"), 2.3, float("nan")],
        "train_loss": [float("nan"), 1.2345, 1.0, float("nan"), 3.0],
    }
)
UNITS = pd.DataFrame(
    {"axis": ["residual"] * 2 + ["head"] * 2, "block": [0, 0, 1, 1], "unit": [0, 1] * 2, "score": [1.5, 2, 0.33333, 4]}
)


def test_runs_are_read_as_they_were_written(tmp_path):
    write_record(tmp_path / "runs.csv", CURVES)
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 3
    pd.testing.assert_frame_equal(read_runs(tmp_path / "runs.csv"), CURVES, check_exact=True)
    one = CURVES[:1].drop(columns=["case", "train_loss"])  # a single validation, of a run that was not trained
    write_record(tmp_path / "one.csv", one)
    pd.testing.assert_frame_equal(read_runs(tmp_path / "one.csv"), one.astype({"epoch": int}))


def test_units_are_read_as_they_were_written(tmp_path):
    write_units(tmp_path / "units.csv", UNITS)
    assert len((tmp_path / "units.csv").read_text().splitlines()) == 3
    pd.testing.assert_frame_equal(read_units(tmp_path / "units.csv"), UNITS, check_exact=True)


def test_a_run_is_described_once_and_whole(tmp_path):
    """By what all have, its arm's, its case's and its own."""
    runs = [
        {"case": case, "init": init, "lr": lr, "weight_decay": 0, "seed": 0, "seconds": 2}
        for case, init, lr in product("ab", ("random", "subclone"), (1, 2))
    ]
    described = [
        {
            "x.all": [1, 2],
            "x.arm": run["init"] == "random",
            "y.case": {"a": 0.5, "b": None}[run["case"]],
            "own": run["lr"],
        }
        | ({"x.some": "text"} if run["init"] == "random" else {})
        for run in runs
    ]
    described[0]["own"] = True  # not 1
    write_runs(tmp_path / "runs.csv", runs, described, [pd.DataFrame({"step": [0]})] * len(runs))
    record = json.loads((tmp_path / "runs.json").read_text())
    assert record["common"] == {"x": {"all": [1, 2]}}
    table = pd.read_csv(tmp_path / "runs.csv", dtype=str)
    assert [*table] == [*KEYS, "own", "seconds", "step"]
    for row, known in zip(table.to_dict("records"), described, strict=True):
        parts = [
            record["common"],
            record["arms"][row["init"]],
            record["cases"][row["case"]],
            {"own": json.loads(row["own"])},
        ]
        found = {key: value for part in parts for key, value in flatten_dict(part).items()}
        assert json.dumps(found, sort_keys=True) == json.dumps(known, sort_keys=True)


def test_records_of_an_older_form_are_refused(tmp_path):
    older = "an older form of a record. Make it again, or convert it with migrate_records.py of commit"
    CURVES.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(SubcloningError, match=f"runs.csv has one row for each validation, {older}"):
        read_runs(tmp_path / "runs.csv")
    UNITS.to_csv(tmp_path / "units.csv", index=False)
    with pytest.raises(SubcloningError, match=f"units.csv has one row for each unit, {older}"):
        read_units(tmp_path / "units.csv")


def test_a_table_and_a_record_that_do_not_belong_together_are_refused(tmp_path):
    """As where the machine died between the two."""
    refusal = r"runs\.csv is not the table that goes with runs\.json beside it: collect the runs again"
    write_record(tmp_path / "runs.csv", CURVES)
    before = (tmp_path / "runs.csv").read_text()
    write_record(tmp_path / "runs.csv", CURVES[3:])
    (tmp_path / "runs.csv").write_text(before)
    with pytest.raises(SubcloningError, match=refusal):
        read_runs(tmp_path / "runs.csv")
    (tmp_path / "runs.json").unlink()
    with pytest.raises(SubcloningError, match=refusal):
        read_runs(tmp_path / "runs.csv")
