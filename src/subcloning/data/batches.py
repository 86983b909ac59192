"""One global batch, split over ranks and over passes; and batches numbered by step, so that any step can be read."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..errors import SubcloningError


def accumulation(batch_size: int, world_size: int, micro_batch: int | None = None) -> int:
    """Passes per optimiser step, so that `batch_size` samples of all ranks together go through `micro_batch` at a time.

    micro_batch: samples per rank and pass, as the memory allows; None for all at once.
    """
    micro_batch = micro_batch or max(1, batch_size // world_size)
    passes, rest = divmod(batch_size, world_size * micro_batch)
    if rest or not passes:
        raise SubcloningError(
            f"a batch of {batch_size} does not divide into {world_size} device(s) x micro_batch={micro_batch}: change "
            "the number of devices or micro_batch"
        )
    return passes


class Steps(Sampler):
    """Numbers of the micro-batches from where the trainer stands to the next validation; these are `steps` apart."""

    def __init__(self, trainer: Trainer, steps: int):
        self.trainer, self.steps = trainer, steps

    def __len__(self) -> int:
        return self.steps * self.trainer.accumulate_grad_batches

    def __iter__(self) -> Iterator[int]:
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return iter(range(start, (start // len(self) + 1) * len(self)))


def validation_batches(count: int, size: int, rank: int, ranks: int) -> list[tuple[Tensor, bool]]:
    """(numbers, counted) of the batches, at most `size`, in which one rank reads its share of `count` samples.

    Every sample counts once, on one rank. All ranks have as many batches, since all take part in each pass of a sharded
    model: who has a batch less reads sample 0 again, which is not counted.
    """
    own = torch.arange(count)[rank::ranks]
    batches = [(part, True) for part in own.split(size) if len(part)]
    most = -(-count // ranks)
    return batches + [(torch.zeros(1, dtype=torch.long), False)] * (-(-most // size) - len(batches))


class Counted(Dataset):
    """`dataset[key, counted]`: the batch `dataset[key]`, and whether it counts."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple) -> tuple:
        return self.dataset[key[0]], key[1]


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch from several whole numbers, so that equal numbers draw equally anywhere."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for all kinds of devices, which takes 0.2 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
