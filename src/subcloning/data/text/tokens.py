"""Reading token ids from memory-mapped shards: as one long stream, and as blocks in a random order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import SubcloningError


class TokenStream:
    """One split of a corpus as a single sequence of token ids. Shards are memory-mapped and never copied as a whole.

    shards: paths of `.npy` files in order, and the number of tokens of each.
    """

    def __init__(self, shards: Sequence[tuple[Path, int]]):
        self.paths = [path for path, _ in shards]
        self.starts = np.cumsum([0, *(tokens for _, tokens in shards)])
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # a pickled memory map is a copy: let each process open its own

    def read(self, start: int, length: int) -> np.ndarray:
        """(length,) int64: the ids from `start` on, across shards if need be."""
        out = np.empty(length, np.int64)
        done, shard = 0, int(np.searchsorted(self.starts, start, side="right")) - 1
        while done < length:
            begin = start + done - self.starts[shard]
            piece = self._shard(shard)[begin : begin + length - done]
            out[done : done + len(piece)] = piece
            done, shard = done + len(piece), shard + 1
        return out

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._open:
            self._open[number] = np.load(self.paths[number], mmap_mode="r", allow_pickle=False)
        return self._open[number]


class Blocks:
    """Blocks of `context` + 1 tokens of a stream, of which the first `context` are input and the last are targets.

    In each epoch the stream is cut at another place and the blocks come in another order, both functions of `seed` and
    the epoch alone; so any block of any epoch is read at once, and none comes twice in an epoch.
    """

    def __init__(self, stream: TokenStream, context: int, seed: int, what: str = "this split"):
        self.stream, self.context, self.seed = stream, context, seed
        # Fewer by up to one than would fit, so that any shift of the cut leaves as many.
        self.count = (len(stream) - context) // context
        if self.count < 1:
            raise SubcloningError(
                f"{what} has {len(stream)} tokens, too few for a block: context={context} needs {2 * context}. "
                "Use a larger corpus or a shorter context"
            )

    def rows(self, first: int, count: int) -> np.ndarray:
        """(count, context + 1) int64: blocks `first`, `first` + 1, ... of the endless sequence of epochs."""
        epochs, numbers = np.divmod(np.arange(first, first + count), self.count)
        rows = np.empty((count, self.context + 1), np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            shift = int(np.random.default_rng((self.seed, int(epoch))).integers(self.context))
            places = shuffled(numbers[mine], self.count, (self.seed, int(epoch), 1))
            rows[mine] = [self.stream.read(shift + int(place) * self.context, self.context + 1) for place in places]
        return rows


class TrainingBatches(Dataset):
    """Micro-batch by number: (size, context + 1) token ids of one rank. All ranks together read each block once."""

    def __init__(self, blocks: Blocks, size: int, rank: int, world_size: int):
        self.blocks, self.size, self.rank, self.world_size = blocks, size, rank, world_size

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(self.blocks.rows((number * self.world_size + self.rank) * self.size, self.size))


class ValidationBlocks(Dataset):
    """`count` blocks of a stream, (context + 1,) each, spread evenly over it; indexed by tensors of numbers."""

    def __init__(self, stream: TokenStream, context: int, count: int):
        self.stream, self.context, self.count = stream, context, count
        self.available = (len(stream) - 1) // context

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, numbers: Tensor) -> Tensor:
        starts = [n * self.available // self.count * self.context for n in numbers.tolist()]
        return torch.stack([torch.from_numpy(self.stream.read(start, self.context + 1)) for start in starts])


def shuffled(indices: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """Where a random permutation of range(size), drawn by `key`, takes `indices`.

    A Feistel cipher with cycle walking: no permutation is held in memory, however large the corpus.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    round_keys = np.random.SeedSequence(key).generate_state(6, np.uint64)

    def encrypt(x):
        left, right = x >> half, x & mask
        for round_key in round_keys:
            mixed = (right ^ round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << half) | right

    places = encrypt(np.asarray(indices, np.uint64))
    while (outside := places >= size).any():  # encrypt again until all are inside: still one to one
        places[outside] = encrypt(places[outside])
    return places.astype(np.int64)
