"""Whatever ends a run, the same command goes on, and the result is that of an undisturbed run, bit for bit."""

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from safetensors.torch import load_file

from subcloning import SubcloningError
from subcloning.files import locked
from subcloning.training import run as run_module
from subcloning.training.interruptions import LAST, PREVIOUS, Interrupted, SafeCheckpoints, newest_checkpoint
from subcloning.training.run import run

TINY = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=2", "logger=csv"]
RECIPE = ["recipe.ema_decay=0.9", "recipe.mixup=0.2", "recipe.cutmix=1", "recipe.erase=0.2", "recipe.shift=1"]
RECIPE += ["recipe.dropout=0.1", "recipe.drop_path=0.1"]
STEPS = 21  # in an epoch


@pytest.fixture
def digits(config, tmp_path):
    """digits(name, epochs) is the config of a subcloned run."""
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1"))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    common = ["experiment=digits", *TINY, *RECIPE, f"parent.weights.checkpoint_path='{weights}'", "init=subclone"]

    def make(name, epochs, *options):
        return config(*common, f"name={name}", f"optim.epochs={epochs}", *options)

    return make


def result(cfg):
    """(weights, the averaged ones too, and curve) that a run left."""
    folder = Path(cfg.run_dir)
    models = {name: load_file(folder / name / "model.safetensors") for name in ("model", "model_ema")}
    weights = {f"{name}.{key}": value for name, model in models.items() for key, value in model.items()}
    return weights, (folder / "metrics.csv").read_text()


def assert_same(cfg, undisturbed):
    (weights, curve), (wanted, wanted_curve) = result(cfg), result(undisturbed)
    assert curve == wanted_curve
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


class Signals(Callback):
    """Sends this process a signal during the given steps, each once."""

    def __init__(self, steps, signum):
        self.steps, self.signum = set(steps), signum

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step in self.steps:
            self.steps.remove(trainer.global_step)
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["data.validations_per_epoch=3", "micro_batch=32"]])
def test_signals_at_five_random_steps(digits, during, monkeypatch, record_property, signum, options):
    undisturbed, disturbed = digits("undisturbed", 4, *options), digits("disturbed", 4, *options)
    run(undisturbed)
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)]
    steps = random.Random(int(signum)).sample(range(4 * STEPS - 2), 5)
    signals = Signals(steps, signum)
    for _ in range(5):
        with pytest.raises(Interrupted) as stop, during(signals):
            run(disturbed)
        assert stop.value.signum == signum
        monkeypatch.setattr(run_module, "Start", lambda *args: pytest.fail("subcloned a second time"))
        assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)] == handlers
    run(disturbed)
    assert_same(disturbed, undisturbed)
    record_property("interruptions", 5)


@pytest.mark.parametrize("step", [STEPS - 1, 2 * STEPS - 1])
def test_signal_in_the_last_step_before_a_validation(digits, during, record_property, step):
    undisturbed, disturbed = digits("undisturbed", 3), digits("disturbed", 3)
    run(undisturbed)
    with pytest.raises(Interrupted, match="SIGUSR2"), during(Signals([step], signal.SIGUSR2)):
        run(disturbed)
    assert pd.read_csv(Path(disturbed.run_dir) / "metrics.csv")["step"].iloc[-1] == step + 1
    run(disturbed)
    assert_same(disturbed, undisturbed)
    record_property("interruptions", 1)


def test_signal_in_the_last_step_of_all_ends_as_usual(digits, during):
    with during(Signals([STEPS - 1], signal.SIGUSR1)):
        assert run(digits("disturbed", 1))["epoch"] == 1


class Damage(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 3:
            path = self.folder / LAST
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise RuntimeError("pulled the plug")


def test_truncated_checkpoint_falls_back_to_the_one_before(digits, during, monkeypatch, capsys, record_property):
    undisturbed, disturbed = digits("undisturbed", 4), digits("disturbed", 4)
    run(undisturbed)
    with pytest.raises(RuntimeError, match="pulled the plug"), during(Damage(Path(disturbed.run_dir))):
        run(disturbed)
    monkeypatch.setattr(run_module, "Start", lambda *args: pytest.fail("subcloned a second time"))
    run(disturbed)
    assert "last.ckpt is damaged" in capsys.readouterr().out
    assert_same(disturbed, undisturbed)
    record_property("interruptions", 1)


@pytest.fixture
def server():
    """Forks of a process without threads, which has the libraries: a fork of this one may find its locks taken."""
    server = multiprocessing.get_context("forkserver")
    modules = ("training.run", "training.classification", "data.images.digits")
    server.set_forkserver_preload([f"subcloning.{name}" for name in modules])
    return server


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    """The work is done, and nothing stays that would keep the next process out."""

    def without(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", without)
    for _ in range(2):
        with locked(tmp_path / ".lock"):
            assert tmp_path.is_dir()


def test_other_errors_of_a_lock_are_told(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="broken disk"), locked(tmp_path / ".lock"):
        pass


def test_a_second_process_waits_for_the_first(digits, server):
    """And finds that the run is done."""
    cfg = digits("shared", 1)
    OmegaConf.resolve(cfg)
    run(cfg)
    folder, said = Path(cfg.run_dir), Path(cfg.run_dir).parent / "said"
    summary = (folder / "summary.json").rename(folder / "later.json")
    with locked(folder / ".lock"):
        second = server.Process(target=run_saying, args=(cfg, said))
        second.start()
        end = time.time() + 120
        while not (said.exists() and "waiting for its end" in said.read_text()):
            assert time.time() < end
            time.sleep(0.05)
        summary.rename(folder / "summary.json")
    second.join()
    assert second.exitcode == 0
    assert "done before" in said.read_text()


def run_saying(cfg, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", buffering=1) as out, redirect_stdout(out):
        run(cfg)


def test_what_a_killed_process_left_is_removed(digits):
    cfg = digits("left", 1)
    folder = Path(cfg.run_dir)
    (folder / ".model.12345678.tmp").mkdir(parents=True)
    (folder / ".model.12345678.tmp" / "config.json").write_text("{}")
    (folder / ".metrics.csv.12345678.tmp").write_text("half a l")
    run(cfg)
    assert not list(folder.glob(".*.tmp"))
    assert (folder / "model_ema" / "model.safetensors").exists()


def test_only_damaged_checkpoints_mean_a_new_start(tmp_path, capsys):
    assert newest_checkpoint(tmp_path) is None
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"PK nonsense")
    assert newest_checkpoint(tmp_path) is None
    assert capsys.readouterr().out.count("is damaged") == 2


@pytest.fixture
def file_size_limit():
    """file_size_limit(bytes): writing more fails as on a full disk."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_leaves_the_last_checkpoint_whole(tmp_path, file_size_limit):
    io = SafeCheckpoints()
    io.save_checkpoint({"weights": torch.zeros(100)}, tmp_path / LAST)
    before = (tmp_path / LAST).read_bytes()
    file_size_limit(10_000)
    with pytest.raises(SubcloningError, match=r"last\.ckpt cannot be saved .*Make room"):
        io.save_checkpoint({"weights": torch.ones(100_000)}, tmp_path / LAST)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert (tmp_path / LAST).read_bytes() == before


def slow_run(cfg):
    """A run whose checkpoints take a third of its time to write."""
    torch.set_num_threads(1)
    save = torch.save

    def slowly(value, file):
        save(value, file)
        end = file.tell()
        file.truncate(end // 2)
        file.flush()
        time.sleep(0.1)
        file.seek(0)
        save(value, file)

    torch.save = slowly
    run(cfg)


def saved_since(began, folder):
    try:
        return (folder / LAST).stat().st_mtime > began
    except FileNotFoundError:  # not there yet, or between two names
        return False


def test_killed_twenty_times(digits, server, record_property):
    """kill -9 at random moments, in the middle of writing too, until twenty have struck; then to the end."""
    undisturbed, disturbed = digits("undisturbed", 40), digits("disturbed", 40)
    OmegaConf.resolve(disturbed)  # the other processes have the environment of when their server began
    run(undisturbed)
    draw, end = random.Random(0), time.time() + 300
    folder, kills, writing, starts = Path(disturbed.run_dir), 0, 0, 0
    while not (folder / "summary.json").exists():
        starts += 1
        assert starts < 60
        assert time.time() < end
        process = server.Process(target=slow_run, args=(disturbed,))
        process.start()
        if kills < 20:
            began = time.time()
            while process.is_alive() and not saved_since(began, folder):  # so that each attempt gets somewhere
                assert time.time() < end
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
            while kills % 3 == 0 and process.is_alive() and not list(folder.glob(".last.ckpt.*.tmp")):
                time.sleep(0.001)  # every third in the middle of writing
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        writing += any(folder.glob(".last.ckpt.*.tmp"))
    assert not list(folder.glob(".*.tmp"))
    assert kills == 20
    assert writing >= 4
    assert_same(disturbed, undisturbed)
    record_property("interruptions", kills)
    record_property("while a checkpoint was written", writing)
