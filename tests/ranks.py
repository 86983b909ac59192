"""Run by torchrun for test_ranks.py: each given run undisturbed, and interrupted by a signal to the last rank alone."""

import json
import os
import signal
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy

from subcloning.training import run as run_module
from subcloning.training.fsdp import FullySharded
from subcloning.training.interruptions import Interrupted
from subcloning.training.run import run


class Signal(Callback):
    """To the last rank, in the middle of an epoch."""

    def __init__(self):
        self.step = None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.step is None and trainer.global_step % trainer.datamodule.steps == 1 and trainer.current_epoch == 1:
            self.step = trainer.global_step
            if trainer.global_rank == trainer.world_size - 1:
                os.kill(os.getpid(), signal.SIGUSR1)


class Sharded(Callback):
    def on_train_end(self, trainer, module):
        whole = sum(p.numel() for p in module.model.parameters())
        held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in module.model.parameters())
        assert isinstance(trainer.strategy, FullySharded | DDPStrategy)
        assert (held < 0.6 * whole) == isinstance(trainer.strategy, FullySharded)


def main():
    torch.set_num_threads(1)
    build, callbacks = run_module._trainer, []

    def build_with(*args):
        trainer = build(*args)
        trainer.callbacks[:0] = [Sharded(), *callbacks]
        return trainer

    run_module._trainer = build_with
    with initialize_config_dir(sys.argv[1], version_base="1.3"):
        for name, overrides in json.loads(sys.argv[2]).items():
            configs = [compose("train", overrides=[*overrides, f"name={name}_{how}"]) for how in ("whole", "broken")]
            run(configs[0])
            callbacks.append(Signal())
            with pytest.raises(Interrupted, match="SIGUSR1"):
                run(configs[1])
            callbacks.clear()
            torch.distributed.barrier()
            run(configs[1])
            torch.distributed.barrier()


if __name__ == "__main__":
    main()
