"""W&B: a run's id is its own, and a run that crashed does not count as finished."""

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from test_interruptions import Signals
from test_wandb import TINY, history

from subcloning.sync import sync
from subcloning.training.interruptions import Interrupted
from subcloning.training.run import run


@pytest.fixture
def cfg(config):
    """cfg(logger) is the config of a short run."""
    return lambda logger: config("experiment=digits_parent", *TINY, "optim.epochs=1", f"logger={logger}")


@pytest.fixture
def codes(monkeypatch):
    """Exit codes that W&B is told."""
    from wandb.sdk.wandb_run import Run

    finish, said = Run.finish, []

    def noting(self, exit_code=None, **options):
        said.append(exit_code)
        return finish(self, exit_code, **options)

    monkeypatch.setattr(Run, "finish", noting)
    return said


def test_only_a_run_at_its_end_is_finished(cfg, during, codes):
    class Crash(Signals):
        def on_train_start(self, trainer, module):
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"), during(Crash([], 0)):
        run(cfg("wandb_offline"))
    with pytest.raises(Interrupted), during(Signals([5], signal.SIGUSR1)):
        run(cfg("wandb_offline"))
    run(cfg("wandb_offline"))
    assert codes == [1, 1, 0]


def ids(folder: Path) -> set[str]:
    return {file.stem.removeprefix("run-") for file in folder.glob("wandb/offline-run-*/*.wandb")}


def test_a_run_keeps_its_id_and_one_trained_again_has_another(cfg, during):
    folder = Path(cfg("wandb_offline").run_dir)
    with pytest.raises(Interrupted), during(Signals([5], signal.SIGUSR1)):
        run(cfg("wandb_offline"))
    run(cfg("wandb_offline"))
    (first,) = ids(folder)
    assert first.startswith(cfg("csv").run.replace("/", "--"))
    shutil.rmtree(folder)
    run(cfg("wandb_offline"))
    (second,) = ids(folder)
    assert second != first
    for name in ("last.ckpt", "summary.json"):
        (folder / name).unlink()
    run(cfg("wandb_offline"))
    assert len(ids(folder)) == 2


def test_sync_sends_all_of_a_run_trained_again(cfg):
    folder = Path(cfg("csv").run_dir)
    run(cfg("csv"))
    assert sync(folder, "offline") == 2
    (first,) = ids(folder)
    assert sync(folder, "offline") == 0
    for name in ("last.ckpt", "summary.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "wandb")
    run(cfg("csv"))
    assert sync(folder, "offline") == 2
    assert ids(folder).isdisjoint({first})
    assert history(folder)["_step"].tolist() == pd.read_csv(folder / "metrics.csv")["step"].tolist()
