"""Paragraphs cut in two, for encoders of sentences: which half belongs to which? What a step reads is a function of
(seed, step, rank) alone."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...errors import SubcloningError
from ..batches import Steps
from .sources import TextFiles
from .tokenizer import Pretrained
from .tokens import shuffled

AT_ONCE = 1024  # paragraphs that are tokenised at a time


class Halves(LightningDataModule):
    """Batches of token ids, (2 x paragraphs, length): the halves of a paragraph follow each other.

    source: of its documents, each line with enough tokens for two halves is a paragraph, of which the first ones count.
    length: tokens of a half, with those that the tokenizer puts around a text; so nothing is padded.
    train, validation: paragraphs at most, from the beginning of each split. scoring: of the training ones, that score a
    parent.
    batch_tokens: of one optimiser step, over all ranks. A half is told from those of the same micro-batch, so how many
    ranks and passes share a batch changes what is learned. validate_every: tokens from one validation to the next.
    """

    trainer: Trainer  # set by the trainer itself

    def __init__(
        self,
        source: TextFiles,
        tokenizer: Pretrained,
        *,
        length: int,
        train: int,
        validation: int,
        scoring: int,
        batch_tokens: int,
        validate_every: int,
        seed: int,
    ):
        super().__init__()
        if batch_tokens % (2 * length) or validate_every % batch_tokens:
            raise SubcloningError(
                f"batch_tokens={batch_tokens} must be a multiple of a paragraph's 2 x {length} tokens, and "
                f"validate_every={validate_every} of batch_tokens"
            )
        self.tokenizer = tokenizer.make()
        self.length, self.batch_tokens, self.seed, self.scoring = length, batch_tokens, seed, scoring
        self.batch_size, self.steps = batch_tokens // (2 * length), validate_every // batch_tokens
        self.train = self._paragraphs(source, "train", train)
        self.validation = self._paragraphs(source, "validation", validation)
        if len(self.train) < self.batch_size:
            raise SubcloningError(
                f"batch_tokens={batch_tokens} are more than the {len(self.train)} paragraphs there are"
            )

    def _paragraphs(self, source: TextFiles, split: str, most: int) -> Tensor:
        """(paragraphs, 2, length) token ids."""
        begin, end = self._around()
        room = self.length - len(begin) - len(end)
        lines = (
            line
            for unit in source.units
            for piece in source.read(unit)
            if piece.split == split
            for line in piece.text.splitlines()
            if len(line) >= 2 * room  # a token has a character or more
        )
        found: list[Tensor] = []
        while sum(map(len, found)) < most and (some := [*islice(lines, AT_ONCE)]):
            tokens = self.tokenizer(some, add_special_tokens=False, truncation=True, max_length=2 * room)["input_ids"]
            whole = torch.tensor([ids for ids in tokens if len(ids) == 2 * room], dtype=torch.long)
            around = [torch.tensor(ids).expand(len(whole), 2, -1) for ids in (begin, end)]
            found.append(torch.cat([around[0], whole.view(-1, 2, room), around[1]], -1))
        paragraphs = torch.cat(found)[:most] if found else torch.empty(0)
        if len(paragraphs) < 2:
            raise SubcloningError(
                f"the {split} text has {len(paragraphs)} paragraphs of {2 * room} tokens: give more text, with each "
                "paragraph on one line, or a shorter length"
            )
        return paragraphs

    def _around(self) -> tuple[list[int], list[int]]:
        """Ids before and after a text."""
        [inside] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        at = whole.index(inside)
        return whole[:at], whole[at + 1 :]

    @property
    def provenance(self) -> dict:
        found = hashlib.sha256()
        for paragraphs in (self.train, self.validation):
            found.update(paragraphs.numpy().astype("<i8").tobytes())
        return {"paragraphs": len(self.train), "validation": len(self.validation), "sha256": found.hexdigest()}

    def train_dataloader(self) -> DataLoader:
        size = self.batch_size // (self.trainer.world_size * self.trainer.accumulate_grad_batches)
        batches = _Batches(self.train, size, self.seed, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(batches, sampler=Steps(self.trainer, self.steps), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """All halves, on every rank, `batch_size` paragraphs at a time: each is compared with all others."""
        batches: Any = [part.flatten(0, 1) for part in self.validation.split(self.batch_size)]
        return DataLoader(batches, batch_size=None)

    def scoring_batches(self, rank: int = 0, ranks: int = 1) -> Iterator[Tensor]:
        """This rank's share of the halves that score a parent."""
        own = self.train[: self.scoring][rank::ranks]
        if not len(own):
            raise SubcloningError(f"scoring={self.scoring} paragraphs are fewer than the {ranks} ranks: set it higher")
        yield from own.flatten(0, 1).split(2 * self.batch_size)


class _Batches(Dataset):
    """Micro-batch by number. All ranks together read each paragraph once in an epoch, in an order of its own."""

    def __init__(self, paragraphs: Tensor, size: int, seed: int, rank: int, world_size: int):
        self.paragraphs, self.size, self.seed, self.rank, self.world_size = paragraphs, size, seed, rank, world_size

    def __getitem__(self, number: int) -> Tensor:
        first = (number * self.world_size + self.rank) * self.size
        epochs, places = np.divmod(np.arange(first, first + self.size), len(self.paragraphs))
        order = np.empty_like(places)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            order[mine] = shuffled(places[mine], len(self.paragraphs), (self.seed, int(epoch)))
        return self.paragraphs[torch.from_numpy(order)].flatten(0, 1)
