"""Blocks of text for language modelling. What a step reads is a function of (seed, step, rank) alone."""

from collections.abc import Iterator

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ...errors import SubcloningError
from ..batches import Counted, Steps, validation_batches
from .corpus import Corpus
from .tokens import Blocks, TrainingBatches, ValidationBlocks


class TextData(LightningDataModule):
    """Batches of token ids, (sequences, context + 1) int64: the first `context` are input, the last are targets.

    corpus: prepared on first use, in one go; large ones better beforehand (`python -m subcloning.prepare`).
    batch_tokens: of one optimiser step, over all ranks. validate_every: tokens from one validation to the next.
    validation_tokens: at most that many, spread evenly over the validation split. scoring_tokens: of training data, the
    same in every run, that score a parent. verify: read all shards once and hold them against their checksums.
    workers: processes that read ahead.
    """

    trainer: Trainer  # set by the trainer itself

    def __init__(
        self,
        corpus: Corpus,
        *,
        context: int,
        batch_tokens: int,
        validate_every: int,
        seed: int,
        validation_tokens: int,
        scoring_tokens: int,
        verify: bool = True,
        workers: int = 0,
    ):
        super().__init__()
        if batch_tokens % context or validate_every % batch_tokens:
            raise SubcloningError(
                f"batch_tokens={batch_tokens} must be a multiple of context={context}, and validate_every="
                f"{validate_every} of batch_tokens"
            )
        corpus.prepare()
        self.corpus = corpus.open(verify=verify)
        train, validation = self.corpus.splits["train"], self.corpus.splits["validation"]
        self.batch_size, self.steps = batch_tokens // context, validate_every // batch_tokens
        self.batch_tokens, self.context, self.workers = batch_tokens, context, workers
        self.training = Blocks(train, context, seed, f"the training split of {corpus.folder}")
        self.scoring = Blocks(train, context, seed=0)
        self.scoring_blocks = min(scoring_tokens // context, self.scoring.count)
        blocks = min(validation_tokens, len(validation) - 1) // context
        if blocks < 1:
            raise SubcloningError(
                f"the validation split of {corpus.folder} has {len(validation)} tokens, too few for one block of "
                f"context={context} and a target: use a larger corpus or a shorter context"
            )
        self.validation = ValidationBlocks(validation, context, blocks)

    @property
    def provenance(self) -> dict:
        splits = self.corpus.manifest["splits"]
        return {"corpus_sha256": self.corpus.sha256, **{split: info["tokens"] for split, info in splits.items()}}

    def _micro_batch(self) -> int:
        return self.batch_size // (self.trainer.world_size * self.trainer.accumulate_grad_batches)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            TrainingBatches(self.training, self._micro_batch(), rank, world_size),
            sampler=Steps(self.trainer, self.steps),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader:
        """(token ids, whether they count) of this rank's share of the validation blocks, every block once."""
        size, rank, ranks = self._micro_batch(), self.trainer.global_rank, self.trainer.world_size
        batches = validation_batches(len(self.validation), size, rank, ranks)
        return DataLoader(Counted(self.validation), sampler=batches, batch_size=None)

    def scoring_batches(self, rank: int = 0, ranks: int = 1) -> Iterator[Tensor]:
        """This rank's share of the blocks that score a parent."""
        if self.scoring_blocks < ranks:
            raise SubcloningError(
                f"scoring_tokens are {self.scoring_blocks} blocks of {self.context}, fewer than the {ranks} ranks: set "
                "data.scoring_tokens higher"
            )
        size = min(self.batch_size, 16)
        start, end = (part * self.scoring_blocks // ranks for part in (rank, rank + 1))
        for first in range(start, end, size):
            count = min(size, end - first)
            yield torch.from_numpy(self.scoring.rows(first, count)[:, :-1])
