"""Several ranks: they know of each other before anything is decided, and rank 0 decides for all."""

import itertools
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from ..errors import SubcloningError
from .interruptions import Interrupted

_calls = itertools.count()


def start_ranks(trainer: Trainer) -> None:
    """Start the other processes, if nothing else does, and join them to the process group. Lightning would do it late,
    with the first validation."""
    if trainer.world_size > 1:
        trainer.strategy.connect(LightningModule())  # FSDP's environment asks for one
        join = trainer.strategy.setup_environment
        if launcher := trainer.strategy.launcher:  # None where torchrun started all
            launcher.launch(join, trainer=trainer)
        else:
            join()


def from_rank_zero(do: Callable, *args):
    """What `do(*args)` returns on rank 0, on all ranks; an error there is raised on all.

    The others wait however long it takes: for a value in the process group's store, since collectives time out.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return do(*args)
    group: Any = dist.group.WORLD
    store, key = group.get_group_store(), f"subcloning/{next(_calls)}"
    if dist.get_rank():
        store.wait([key], timedelta(days=365))
        result, error = pickle.loads(store.get(key))
        if error:
            raise error
        return result
    try:
        result = do(*args)
    except BaseException as error:
        known = isinstance(error, SubcloningError | Interrupted)  # others may not survive pickling
        store.set(key, pickle.dumps((None, error if known else RuntimeError(f"rank 0 ended with {error!r}"))))
        raise
    store.set(key, pickle.dumps((result, None)))
    return result


@torch.no_grad()
def broadcast_weights(model: nn.Module, device: torch.device) -> None:
    """Give all ranks the values of rank 0's `model`, one tensor at a time by way of `device`."""
    for tensor in model.state_dict().values():
        there = tensor.to(device)
        dist.broadcast(there, src=0)
        tensor.copy_(there)
