"""Large sets of images: read, decoded and augmented by workers as they are needed."""

import warnings

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from ...errors import SubcloningError
from ..batches import seed_all
from .augment import Recipe
from .datamodule import ImageData, ImageSet
from .preprocessing import PREPROCESSING, agreed
from .sets import Folder, read, same_classes


class StreamedImages(ImageData):
    """Images of any size, resized and cropped.

    train, validation: folders that hold one folder per class, or sets as in `image_sets`.
    image_size: of the model. train_images: how many there must be, so that an incomplete copy is noticed; None for any.
    preprocessing, parent_preprocessing, override_preprocessing: see `agreed`.
    on_unreadable: "error", or "skip" to take the next image instead in training and to leave it out in validation.
    """

    def __init__(
        self,
        train,
        validation,
        *,
        image_size: int,
        recipe: Recipe,
        seed: int,
        preprocessing: dict,
        parent_preprocessing: dict | None = None,
        override_preprocessing: bool = False,
        train_images: int | None = None,
        on_unreadable: str = "error",
        **options,
    ):
        preprocessing = agreed(preprocessing, parent_preprocessing, override=override_preprocessing)
        if lacking := [key for key in PREPROCESSING if key not in preprocessing]:
            raise SubcloningError(f"data.preprocessing lacks {', '.join(lacking)}, and the parent does not tell")
        preprocessing["input_size"] = (3, image_size, image_size)
        train, validation = (Folder(part) if isinstance(part, str) else part for part in (train, validation))
        same_classes(train, validation)
        if train_images not in (None, len(train)):
            raise SubcloningError(f"{train} has {len(train)} images, expected {train_images}: is the copy complete?")
        common = {"interpolation": preprocessing["interpolation"], "mean": tuple(preprocessing["mean"])}
        common["normalize"] = False  # uint8: normalised and erased on the device
        plain = augmented = create_transform(image_size, crop_pct=preprocessing["crop_pct"], **common)
        if recipe.crop:
            augmented = create_transform(
                image_size,
                is_training=True,
                scale=(recipe.crop[0], recipe.crop[1]),
                hflip=recipe.flip,
                auto_augment=recipe.auto_augment,
                color_jitter=recipe.color_jitter or 0.0,
                **common,
            )
        self._commits = {commit for part in (train, validation) if (commit := getattr(part, "commit", None))}
        sets = (ReadImages(part, plain, augmented, seed, on_unreadable) for part in (train, validation))
        options |= {"classes": train.classes, "preprocessing": preprocessing, "recipe": recipe, "seed": seed}
        super().__init__(*sets, on_batch=False, **options)

    @property
    def provenance(self) -> dict:
        return super().provenance | ({"commit": " ".join(sorted(self._commits))} if self._commits else {})


class ReadImages(ImageSet):
    """Batches of `source`, (n, 3, size, size) uint8 and (n,) int64: `dataset[indices, number]`.

    number: of the batch, for an `augmented` one; None for a `plain` one. What is drawn depends on the seed, the number
    and the place in the batch, not on the workers.
    """

    def __init__(self, source, plain, augmented, seed: int, on_unreadable: str):
        if on_unreadable not in ("error", "skip"):
            raise SubcloningError(f"on_unreadable={on_unreadable!r}: expected error or skip")
        self.source, self.plain, self.augmented, self.seed = source, plain, augmented, seed
        self.skip = on_unreadable == "skip"
        self._unreadable = torch.zeros(len(source), dtype=torch.bool).share_memory_()  # seen by all workers

    @property
    def skipped(self) -> int:
        """How many images could not be read so far."""
        return int(self._unreadable.sum())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[Tensor, int | None]) -> tuple[Tensor, Tensor]:
        indices, number = key
        images, labels = [], []
        for place, index in enumerate(indices.tolist()):
            # A training batch keeps its size; a validation image counts once or not at all.
            pair = self._first_readable(index, tries=1 if number is None else 16)
            if not pair:
                continue
            if number is not None:
                seed_all(self.seed, number, place)
            images.append((self.plain if number is None else self.augmented)(pair[0]))
            labels.append(pair[1])
        if not images or (number is not None and len(images) < len(indices)):
            raise SubcloningError(f"{self.source}: too many images cannot be read, the last one {index}")
        return torch.stack(images), torch.tensor(labels)

    def _first_readable(self, index: int, tries: int) -> tuple[Image.Image, int] | None:
        for candidate in range(index, index + tries):
            try:
                return read(self.source, candidate % len(self))
            except SubcloningError as error:
                if not self.skip:
                    raise SubcloningError(f"{error}, or set data.on_unreadable=skip") from error
                warnings.warn(f"skipped: {error}", stacklevel=1)
                self._unreadable[candidate % len(self)] = True
        return None
