"""Images and labels for classification, behind one interface. What a step reads is a function of (seed, step, rank)."""

import hashlib
from collections.abc import Iterator

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ...errors import SubcloningError
from ..batches import Counted, Steps, validation_batches
from .augment import BatchTransform, Recipe


class EpochBatches(Sampler):
    """(indices, number) of one rank's passes from where the trainer stands; an incomplete last batch is dropped.

    The order is drawn anew for each epoch, from the seed and the epoch alone. The numbers are unique in the run.
    repeats: copies of each image in an epoch, side by side, so that ranks share them; only so many-th of the images
    come in one epoch then.
    """

    def __init__(self, trainer: Trainer, steps: Steps, steps_per_epoch: int, *, size, batch_size, seed, repeats=1):
        self.trainer, self.steps, self.steps_per_epoch = trainer, steps, steps_per_epoch
        self.size, self.batch_size, self.seed, self.repeats = size, batch_size, seed, repeats

    def __len__(self) -> int:
        return len(self.steps)

    def order(self, epoch: int) -> Tensor:
        """(size,) indices of all samples of an epoch."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        return torch.randperm(self.size, generator=generator).repeat_interleave(self.repeats)[: self.size]

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        passes, rank, ranks = self.trainer.accumulate_grad_batches, self.trainer.global_rank, self.trainer.world_size
        current = None
        for number in self.steps:
            step, part = divmod(number, passes)
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, order = epoch, self.order(epoch)
            batch = order[position * self.batch_size :][: self.batch_size]
            yield batch[rank::ranks].chunk(passes)[part], number * ranks + rank


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """`dataset[indices, number]`: a batch of images (n, channels, height, width) and labels (n,).

    number: unique for each training batch, None for images as they are validated and scored.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: tuple[Tensor, int | None]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @property
    def skipped(self) -> int:
        """Images that could not be read so far, where that is allowed."""
        return 0


class ImageData(LightningDataModule):
    """Loaders over two sets of images.

    classes: names. preprocessing: timm's data config.
    batch_size: of one optimiser step, over all ranks and passes. workers: processes that read ahead.
    validations_per_epoch: evenly spaced; steps that do not divide by it are dropped.
    scoring_fraction: of the training images, the same in every run, that score a parent; 0.5 % in the paper (4.1).
    on_batch: whether images are shifted and flipped by the batch, or were by the dataset.
    """

    trainer: Trainer  # set by the trainer itself

    def __init__(
        self,
        train: ImageSet,
        validation: ImageSet,
        *,
        classes: list[str],
        preprocessing: dict,
        batch_size: int,
        seed: int,
        recipe: Recipe,
        on_batch: bool,
        workers: int = 0,
        validations_per_epoch: int = 1,
        scoring_fraction: float = 0.005,
    ):
        super().__init__()
        if batch_size > len(train):
            raise SubcloningError(f"batch_size={batch_size} is more than the {len(train)} training images")
        _check(recipe, on_batch)
        self.train, self.validation, self.classes = train, validation, classes
        self.preprocessing, self.batch_size, self.seed, self.recipe = preprocessing, batch_size, seed, recipe
        self.workers, self.validations_per_epoch = workers, validations_per_epoch
        self.scoring_fraction = scoring_fraction
        self.steps = len(train) // batch_size // validations_per_epoch  # from one validation to the next
        if not self.steps:
            raise SubcloningError(
                f"validations_per_epoch={validations_per_epoch} is more than the {len(train) // batch_size} steps"
            )
        mean, std = preprocessing["mean"], preprocessing["std"]
        self.transform = BatchTransform(recipe, mean, std, len(classes), on_batch=on_batch)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps * self.validations_per_epoch

    @property
    def provenance(self) -> dict:
        """How many images and classes there are, and `sample_sha256`: of a few images, their labels, and how they are
        prepared. It tells other images under the same name, and the same ones in another place."""
        sizes = {"train_images": len(self.train), "validation_images": len(self.validation)}
        found = hashlib.sha256(repr(sorted(self.preprocessing.items())).encode())
        for dataset in (self.train, self.validation):
            for tensor in dataset[torch.arange(8) * len(dataset) // 8, None]:
                found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return sizes | {"classes": len(self.classes), "sample_sha256": found.hexdigest()}

    @property
    def skipped(self) -> int:
        """Images that this rank could not read, where that is allowed."""
        return self.train.skipped + self.validation.skipped

    def _loader(self, dataset: Dataset, batches, **options) -> DataLoader:
        return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=self.workers, **options)

    def _pinned(self) -> dict:
        return {"persistent_workers": self.workers > 0, "pin_memory": self.trainer.strategy.root_device.type == "cuda"}

    def train_dataloader(self) -> DataLoader:
        share = self.batch_size // (self.trainer.world_size * self.trainer.accumulate_grad_batches)
        if share % 2 and self.transform.mixup:
            raise SubcloningError(
                f"batch_size={self.batch_size} is {share} images per device and pass: they are mixed in pairs"
            )
        batches = EpochBatches(
            self.trainer,
            Steps(self.trainer, self.steps),
            self.steps_per_epoch,
            size=len(self.train),
            batch_size=self.batch_size,
            seed=self.seed,
            repeats=self.recipe.repeats,
        )
        return self._loader(self.train, batches, **self._pinned())

    def val_dataloader(self) -> DataLoader:
        """((images, labels), whether they count) of this rank's share of the validation set, every image once."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        # No gradients are kept: twice the images of a training pass fit.
        size = max(1, 2 * self.batch_size // (ranks * self.trainer.accumulate_grad_batches))
        batches = [
            ((part, None), counted) for part, counted in validation_batches(len(self.validation), size, rank, ranks)
        ]
        return self._loader(Counted(self.validation), batches, **self._pinned())

    def scoring_batches(self, rank: int = 0, ranks: int = 1) -> Iterator[Tensor]:
        """This rank's share of the images that score a parent."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        count = max(ranks, round(self.scoring_fraction * len(self.train)))
        batches = [(part, None) for part in order[rank:count:ranks].split(min(self.batch_size, 64))]
        for images, _ in self._loader(self.train, batches):
            yield self.transform.normalised(images)


def _check(recipe: Recipe, on_batch: bool) -> None:
    """Raise where the recipe says what this kind of set cannot do, instead of leaving it out."""
    if on_batch:
        kind, idle = "small sets, which are augmented by the batch", ["auto_augment", "color_jitter"]
        idle += [] if recipe.shift else ["crop"]  # a recipe for both kinds of sets has both
    else:
        kind = "large sets without recipe.crop"
        idle = [] if recipe.crop else ["shift", "flip", "auto_augment", "color_jitter"]
    for key in idle:
        if value := getattr(recipe, key):
            raise SubcloningError(f"recipe.{key}={value} is not for {kind}: see configs/recipe")
