"""Interruptions: checkpoints that are whole or not there, and signals that end a run at the boundary of a step."""

import os
import re
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ..errors import SubcloningError
from ..files import atomic

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class SafeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it; the one before it stays as previous.ckpt."""

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options: object = None) -> None:
        path = Path(path)
        try:
            with atomic(path) as temporary:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())  # a machine may go down as well as a process
                if path.exists():
                    os.replace(path, path.with_name(PREVIOUS))
        except (OSError, RuntimeError) as error:  # torch turns some of the first into the second
            raise SubcloningError(
                f"{path} cannot be saved ({error}): the one before it is whole. Make room and start the run again"
            ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint in `folder` that is whole, or None. It is read once for its checksums, which torch skips."""
    for path in (folder / LAST, folder / PREVIOUS):
        if path.exists():
            try:
                with zipfile.ZipFile(path) as file:
                    if damaged := file.testzip():
                        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
                torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                return path
            except Exception as error:  # of a dozen kinds, by where the damage is
                print(f"{path} is damaged ({str(error).partition(chr(10))[0]}): looking for the one before it")
    return None


class Interrupted(Exception):
    """The run was told to stop, and its checkpoint is saved. `signum` is the signal."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}; the same command goes on from there"


class StopAtStep(Callback):
    """On SIGUSR1, SIGUSR2 or SIGTERM, save a checkpoint at the end of the step and raise `Interrupted`.

    `with` it, run: a signal before the first step stops the run after that, one after the last step is ignored. A
    handler only sets a flag, since a signal may come in the middle of anything. Several ranks look at their flags
    together, every tenth step, so that all stop after the same one. After the last step before a validation comes that.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)

    def __init__(self, folder: Path):
        self.folder, self.received, self.waiting = folder, 0, False

    def _note(self, signum: int, frame) -> None:
        self.received = signum
        if self.waiting:
            raise Interrupted(signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, and only there, a signal raises `Interrupted` without delay."""
        if self.received:
            raise Interrupted(self.received)
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def _listen(self) -> list:
        if threading.current_thread() is not threading.main_thread():
            return []  # where Python allows no handlers
        return [signal.signal(signum, self._note) for signum in self.SIGNALS]

    def __enter__(self) -> "StopAtStep":
        self.before = self._listen()
        return self

    def __exit__(self, *exception) -> None:
        for signum, handler in zip(self.SIGNALS, self.before, strict=False):
            signal.signal(signum, handler or signal.SIG_DFL)

    def on_validation_start(self, trainer: Trainer, module) -> None:
        self._listen()  # again, after Lightning has installed its own handlers

    def on_train_start(self, trainer: Trainer, module) -> None:
        self._listen()

    def on_train_batch_end(self, trainer: Trainer, module, outputs, batch, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if stepped and not last and (trainer.world_size == 1 or trainer.global_step % 10 == 0):
            self._stop_if_told(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module) -> None:
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop_if_told(trainer, module)

    def _stop_if_told(self, trainer: Trainer, module) -> None:
        if trainer.world_size > 1:
            told = torch.tensor(self.received, device=trainer.strategy.root_device)
            self.received = int(trainer.strategy.reduce(told, reduce_op="max"))
        if self.received:
            if trainer.world_size > 1:
                module.train_loss.sync()  # the checkpoint has only rank 0's
            trainer.save_checkpoint(self.folder / LAST)
            raise Interrupted(self.received)


def requeue() -> None:
    """Ask SLURM to run this job again, in its own place in the queue."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        raise SubcloningError(f"SLURM's job id {job!r} is not one")
    subprocess.run(["scontrol", "requeue", job], check=True)
