"""Small sets of images: decoded once, kept as one memory-mapped array of uint8, augmented by the batch."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..axes import SubcloningError
from ..files import atomic, locked
from .image_sets import read, same_classes
from .images import ImageData, agreed


class ArrayImages(Dataset):
    """`dataset[indices, number]` of arrays: images and labels of a batch; the number does not matter.

    images: (n, channels, height, width) uint8 or float32, a tensor or a memory-mapped array. labels: (n,) int64.
    """

    def __init__(self, images: Tensor | np.ndarray, labels: Tensor, classes: list[str], name: str = ""):
        self.images, self.labels, self.classes, self.name = images, labels, classes, name

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        return self.name

    def __getitem__(self, key: tuple[Tensor, int | None]) -> tuple[Tensor, Tensor]:
        indices, _ = key
        return torch.as_tensor(self.images[indices.numpy()]), self.labels[indices]


class CachedImages(ImageData):
    """A set that fits into memory, all images of one size.

    train, validation: functions that give a set as in `image_sets` or torchvision. They are called when `folder` does
        not hold its images yet, so a download happens once.
    preprocessing, parent_preprocessing, override_preprocessing: see `agreed`.
    """

    def __init__(
        self,
        train: Callable,
        validation: Callable,
        *,
        folder: str,
        image_size: int,
        preprocessing: dict,
        parent_preprocessing: dict | None = None,
        override_preprocessing: bool = False,
        **options,
    ):
        train = decoded(Path(folder) / "train", train, image_size)
        validation = decoded(Path(folder) / "validation", validation, image_size)
        same_classes(train, validation)
        # Nothing is resized: interpolation and crop do not matter.
        parent = {key: value for key, value in (parent_preprocessing or {}).items() if key in ("mean", "std")}
        preprocessing = agreed(preprocessing, parent, override=override_preprocessing) | {"crop_pct": 1.0}
        preprocessing["input_size"] = (3, image_size, image_size)
        options |= {"classes": train.classes, "preprocessing": preprocessing}
        super().__init__(train, validation, on_batch=True, **options)


def decoded(folder: Path, make: Callable, size: int) -> ArrayImages:
    """The set in `folder` (images.npy, labels.npy, classes.json), made from `make()` if it is not there."""
    if not folder.exists():
        with locked(folder.with_suffix(".lock")):
            if not folder.exists():  # another process may have made it meanwhile
                _decode(folder, make(), size)
    images = np.load(folder / "images.npy", mmap_mode="r")
    if images.shape[2:] != (size, size):
        raise SubcloningError(f"{folder} holds images of {images.shape[2:]}, wanted {size} x {size}: remove the folder")
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    return ArrayImages(images, labels, json.loads((folder / "classes.json").read_text()), str(folder))


def _decode(folder: Path, source, size: int) -> None:
    with atomic(folder) as temporary:
        temporary.mkdir()
        shape = (len(source), 3, size, size)
        images = np.lib.format.open_memmap(temporary / "images.npy", "w+", np.uint8, shape)
        labels = np.zeros(len(source), np.int64)
        for i in tqdm(range(len(source)), desc=f"decoding {folder}", unit="image"):
            image, labels[i] = read(source, i)
            if image.size != (size, size):
                raise SubcloningError(
                    f"image {i} of {source} is {image.size[0]} x {image.size[1]}, expected {size} x {size}: make all "
                    "images one size, or use data=image_folder, which crops and resizes"
                )
            images[i] = np.asarray(image).transpose(2, 0, 1)
        images.flush()
        np.save(temporary / "labels.npy", labels)
        (temporary / "classes.json").write_text(json.dumps(list(source.classes)))
