"""Fully sharded data parallelism (FSDP2), for models whose training does not fit one device."""

from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..method.axes import family_of


class FullySharded(ModelParallelStrategy):
    """All devices of all nodes share one copy of weights, gradients and optimiser state.

    A checkpoint is one file, as without sharding: rank 0 needs host memory for all of it.
    """

    def __init__(self):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(module: LightningModule, *models: nn.Module) -> None:
    """Under `FullySharded`, split the models of a task over the devices, unless that was done; else do nothing.

    A block is gathered for its forward and backward pass alone. The models must have their weights by now.
    """
    if not isinstance(module.trainer.strategy, FullySharded):
        return
    assert module.device_mesh  # the strategy has made it
    mesh = module.device_mesh["data_parallel"]
    for model in models:
        if not isinstance(model, FSDPModule):
            for part in (*family_of(model).blocks(model), model):
                fully_shard(part, mesh=mesh)
