"""W&B's offline files hold what metrics.csv holds, whoever wrote them."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_interruptions import Signals

from subcloning.collect import collect, from_folders, from_wandb
from subcloning.sync import sync, sync_table
from subcloning.training.interruptions import Interrupted
from subcloning.training.run import run

TINY = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=1"]


def inspect(folder: Path, *options: str, piece: Path | None = None):
    """What W&B's own reader says of an offline run in `folder`: the only one, or `piece`."""
    logs = piece
    if not piece:
        (logs,) = folder.glob("wandb/offline-run-*")
    (file,) = [logs] if logs.is_file() else logs.glob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", *options, str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(said) if options else [json.loads(line) for line in said.splitlines()]


def history(folder: Path, piece: Path | None = None) -> pd.DataFrame:
    """Rows of the curve of an offline run in `folder`: the only one, or `piece`."""
    records = inspect(folder, piece=piece)
    rows = [record["history"]["item"] for record in records if record.get("type") == "history"]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("writer", ["logger", "sync"])
def test_offline_files_hold_the_curve(config, writer):
    logger = "wandb_offline" if writer == "logger" else "csv"
    cfg = config("experiment=digits_parent", *TINY, "optim.epochs=3", f"logger={logger}")
    run(cfg)
    folder = Path(cfg.run_dir)
    if writer == "sync":
        assert sync(folder, "offline") == 4
        assert sync(folder, "offline") == 0
    curve, found = pd.read_csv(folder / "metrics.csv"), history(folder)
    step = "trainer/global_step" if writer == "logger" else "_step"
    found = found.groupby(step).max(numeric_only=True)
    for metric in ("val_loss", "val_accuracy", "train_loss"):
        logged = found[metric].dropna()
        wanted = curve.set_index("step")[metric].dropna()
        assert len(logged) == len(wanted)
        assert logged.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_run_that_went_on_is_sent_from_where_it_was(config):
    cfg = config("experiment=digits_parent", *TINY, "optim.epochs=2", "logger=csv")
    run(cfg)
    folder = Path(cfg.run_dir)
    whole = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text("".join(whole.splitlines(keepends=True)[:3]))
    summary = (folder / "summary.json").rename(folder / "later.json")
    assert sync(folder, "offline") == 2
    assert history(folder)["_step"].tolist() == [0, 21]
    shutil.rmtree(folder / "wandb")
    (folder / "metrics.csv").write_text(whole)
    summary.rename(folder / "summary.json")
    assert sync(folder, "offline") == 1
    assert history(folder)["_step"].tolist() == [42]
    assert inspect(folder, "--summary")["summary"]["val_accuracy"] == pytest.approx(run(cfg)["val_accuracy"])


def test_table_of_a_study(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("init,final\nrandom,93.4\nsubclone,96.5\n")
    sync_table("digits", file, "offline")
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/table_*.json")
    assert json.loads(table.read_text())["data"] == [["random", 93.4], ["subclone", 96.5]]


def test_collected_from_wandb_online(config, tmp_path, monkeypatch):
    """Through W&B's own API, whose answers are made up here from the offline files: there is no server."""
    cfg = config("experiment=digits_parent", *TINY, "optim.epochs=2", "logger=wandb_offline")
    run(cfg)
    folder = Path(cfg.run_dir)
    said = inspect(folder, "--summary")
    rows = [record["history"]["item"] for record in inspect(folder) if record.get("type") == "history"]
    answer = SimpleNamespace(id=cfg.run, config=said["config"], summary=said["summary"], scan_history=lambda: rows)

    class Api:
        def runs(self, project, filters):
            assert (project, filters) == ("me/mine", {"config.name": "digits_parent"})
            return [answer]

    monkeypatch.setattr("wandb.Api", Api)
    collect(from_wandb("me/mine", "digits_parent"), tmp_path / "online")
    collect(from_folders(tmp_path / "runs"), tmp_path / "folders")
    for name in ("runs.csv", "runs.json"):
        assert (tmp_path / "online" / name).read_text() == (tmp_path / "folders" / name).read_text()


def test_interrupted_offline_run_is_in_pieces_of_one_id(config, during):
    """Both pieces together hold each row of the curve once."""
    cfg = config("experiment=digits_parent", *TINY, "optim.epochs=3", "logger=wandb_offline")
    with pytest.raises(Interrupted), during(Signals([30], signal.SIGUSR1)):
        run(cfg)
    run(cfg)
    folder = Path(cfg.run_dir)
    pieces = sorted(folder.glob("wandb/offline-run-*"))
    assert len(pieces) == 2
    assert len({file.stem for piece in pieces for file in piece.glob("*.wandb")}) == 1
    found = pd.concat(history(folder, piece) for piece in pieces)
    wanted = pd.read_csv(folder / "metrics.csv")["val_loss"].tolist()
    assert found["val_loss"].dropna().tolist() == pytest.approx(wanted, abs=1e-5)


def test_plan_config_and_id(config, tmp_path):
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1", "logger=csv"))
    (weights,) = (tmp_path / "runs").glob("digits_parent/*/*/model/model.safetensors")
    options = [f"parent.weights.checkpoint_path='{weights}'", "init=subclone", "optim.epochs=1"]
    cfg = config("experiment=digits", *TINY, *options, "logger=wandb_offline")
    run(cfg)
    folder = Path(cfg.run_dir)
    (log,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert log.stem == "run-" + (folder / "wandb_id").read_text().strip()
    assert any("plan" in row for row in history(folder).columns)
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/plan_*.json")
    rows = {row[0]: row[1:] for row in json.loads(table.read_text())["data"]}
    assert rows["residual"][:2] == [16, 8]
    assert "samples_per_second" in history(folder).columns
    assert inspect(folder, "--summary")["config"]["seed"] in (0, {"value": 0})
