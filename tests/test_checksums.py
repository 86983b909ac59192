"""Bytes that were changed in place are noticed, and signals that come outside training do not kill."""

import os
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from test_interruptions import TINY, Signals

from subcloning import SubcloningError
from subcloning.files import locked
from subcloning.training import run as run_module
from subcloning.training.classification import TimmParent
from subcloning.training.folder import claimed
from subcloning.training.interruptions import (
    LAST,
    PREVIOUS,
    Interrupted,
    SafeCheckpoints,
    StopAtStep,
    newest_checkpoint,
)
from subcloning.training.run import run


def overwrite(file: Path, value: bytes) -> None:
    """In the middle of the largest record, as a broken disk or another program would."""
    with zipfile.ZipFile(file) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    with file.open("r+b") as opened:
        opened.seek(record.header_offset + 200 + record.file_size // 2)
        opened.write(value)


@pytest.mark.parametrize("value", [b"\0" * 64, b"\xff" * 64], ids=["zeros", "NaN"])
def test_overwritten_weights_are_not_resumed(tmp_path, capsys, value):
    io = SafeCheckpoints()
    for step in (1, 2):
        io.save_checkpoint({"weights": torch.full((1000,), float(step))}, tmp_path / LAST)
    assert newest_checkpoint(tmp_path) == tmp_path / LAST
    overwrite(tmp_path / LAST, value)
    torch.load(tmp_path / LAST)  # torch itself does not notice
    assert newest_checkpoint(tmp_path) == tmp_path / PREVIOUS
    assert "last.ckpt is damaged (the checksum of" in capsys.readouterr().out


def test_each_byte_of_a_small_checkpoint_matters(tmp_path):
    SafeCheckpoints().save_checkpoint({"weights": torch.arange(16.0)}, tmp_path / LAST)
    whole = (tmp_path / LAST).read_bytes()
    with zipfile.ZipFile(tmp_path / LAST) as archive:
        (weights,) = (info for info in archive.infolist() if info.filename.endswith("data/0"))
        values = archive.read(weights)
    start = whole.index(values)
    for place in range(start, start + len(values)):
        (tmp_path / LAST).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert newest_checkpoint(tmp_path) is None


@pytest.fixture
def cfg(config):
    return config("experiment=digits_parent", *TINY, "optim.epochs=1")


@pytest.fixture
def otherwise():
    """What a signal would do without the run's own handlers."""
    noted = []
    before = signal.signal(signal.SIGUSR1, lambda *args: noted.append("killed"))
    yield noted
    signal.signal(signal.SIGUSR1, before)


def told(method):
    """`method`, and in the middle of it SIGUSR1."""

    def within(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR1)
        return method(*args, **kwargs)

    return within


def test_a_signal_while_the_model_is_exported(cfg, monkeypatch, otherwise):
    monkeypatch.setattr(TimmParent, "export", told(TimmParent.export))
    assert run(cfg)["epoch"] == 1
    assert (Path(cfg.run_dir) / "summary.json").exists()
    assert not otherwise


def test_a_signal_while_the_run_is_prepared_stops_it_after_its_first_step(cfg, monkeypatch, otherwise):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "prepare", told(run_module.prepare))
        with pytest.raises(Interrupted, match="SIGUSR1"):
            run(cfg)
    assert torch.load(Path(cfg.run_dir) / LAST)["global_step"] == 1
    assert run(cfg)["epoch"] == 1
    assert not otherwise


def test_a_signal_while_the_folder_is_anothers(cfg, monkeypatch, otherwise):
    """What waits has nothing to save."""
    stop, folder = StopAtStep(Path(cfg.run_dir)), Path(cfg.run_dir)
    monkeypatch.setattr("subcloning.files.print", lambda *args, **kwargs: os.kill(os.getpid(), 10), raising=False)
    with locked(folder / ".lock"), stop, pytest.raises(Interrupted, match="SIGUSR1"), claimed(folder, cfg, stop):
        pytest.fail("claimed what is another's")
    assert not otherwise
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_signal_during_the_first_validation(cfg, during, otherwise):
    """Where Lightning has handlers of its own."""

    class First(Signals):
        def on_validation_end(self, trainer, module):
            if trainer.state.fn == "validate":
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"), during(First([], signal.SIGTERM)):
        run(cfg)
    assert torch.load(Path(cfg.run_dir) / LAST)["global_step"] == 1


def test_damaged_folders_say_so(cfg):
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("")
    with pytest.raises(SubcloningError, match=r"provenance.json cannot be read"):
        run(cfg)
