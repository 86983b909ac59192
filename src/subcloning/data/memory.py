"""Small data sets, held as tensors in memory. The order of the samples is a function of seed and epoch alone."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset


class EpochBatches(Sampler):
    """Index tensors of one rank's batches, shuffled by (seed, epoch); an incomplete last batch is dropped.

    passes: parts in which a rank's share of each batch comes, where gradients are accumulated.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world_size: int, passes: int = 1):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0
        self.rank, self.world_size, self.passes = rank, world_size, passes

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size * self.passes

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator)[: self.size // self.batch_size * self.batch_size]
        for batch in order.view(-1, self.batch_size):
            yield from batch[self.rank :: self.world_size].chunk(self.passes)


class MemoryDataModule(LightningDataModule):
    """Loaders over (images, labels) tensors.

    train, validation: images (n, channels, height, width) float32 and labels (n,) int64.
    batch_size: of all ranks together.
    scoring_images: how many training images score a parent; the first ones in a fixed random order.

    Subclasses set `preprocessing`, timm's data config, which is saved with the trained model.
    """

    preprocessing: dict
    provenance: ClassVar = {}  # they come with a package, whose version is recorded

    def __init__(
        self,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        *,
        batch_size: int,
        seed: int,
        scoring_images: int = 256,
    ):
        super().__init__()
        if batch_size > len(train[0]):
            raise ValueError(f"batch_size={batch_size} is more than the {len(train[0])} training images")
        self.train, self.validation = TensorDataset(*train), TensorDataset(*validation)
        self.batch_size, self.seed, self.scoring_images = batch_size, seed, scoring_images

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train) // self.batch_size

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        passes = self.trainer.accumulate_grad_batches
        batches = EpochBatches(len(self.train), self.batch_size, self.seed, rank, world_size, passes)
        return DataLoader(self.train, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """This rank's share of the validation set, every image once."""
        share = torch.arange(self.trainer.global_rank, len(self.validation), self.trainer.world_size)
        return DataLoader(self.validation, sampler=share.split(512), batch_size=None)

    def scoring_batches(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        for batch in order[: self.scoring_images].split(self.batch_size):
            yield self.train.tensors[0][batch]
