"""W&B's offline files hold what metrics.csv holds, whoever wrote them."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from subcloning.sync import sync
from subcloning.training.run import run

TINY = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=1"]


def history(folder: Path) -> pd.DataFrame:
    """Rows of the only offline run in `folder`, by W&B's own reader."""
    (logs,) = folder.glob("wandb/offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(logs)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
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
    (folder / "metrics.csv").write_text(whole)
    summary.rename(folder / "summary.json")
    assert sync(folder, "offline") == 1
