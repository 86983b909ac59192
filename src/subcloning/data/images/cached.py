"""Small sets of images: decoded once, kept as one memory-mapped array of uint8, augmented by the batch."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...errors import SubcloningError
from ...files import atomic, locked
from ..contents import contents, sha256
from .datamodule import ImageData, ImageSet
from .preprocessing import agreed
from .sets import read, same_classes


class ArrayImages(ImageSet):
    """`dataset[indices, number]` of arrays: images and labels of a batch; the number does not matter.

    images: (n, channels, height, width) uint8 or float32, a tensor or a memory-mapped array. labels: (n,) int64.
    sha256: of the files that they are read from.
    """

    def __init__(
        self, images: Tensor | np.ndarray, labels: Tensor, classes: list[str], name: str = "", sha256: str = ""
    ):
        self.images, self.labels, self.classes, self.name, self.sha256 = images, labels, classes, name, sha256

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
        not hold its images yet, so a download happens once; later they say by their arguments, or the files that they
        would read, whether these are the images.
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
        train_set = decoded(Path(folder) / "train", train, image_size)
        validation_set = decoded(Path(folder) / "validation", validation, image_size)
        same_classes(train_set, validation_set)
        # Nothing is resized: interpolation and crop do not matter.
        parent = {key: value for key, value in (parent_preprocessing or {}).items() if key in ("mean", "std")}
        preprocessing = agreed(preprocessing, parent, override=override_preprocessing) | {"crop_pct": 1.0}
        preprocessing["input_size"] = (3, image_size, image_size)
        options |= {"classes": train_set.classes, "preprocessing": preprocessing}
        super().__init__(train_set, validation_set, on_batch=True, **options)
        self._sha256 = {"train_sha256": train_set.sha256, "validation_sha256": validation_set.sha256}

    @property
    def provenance(self) -> dict:
        return super().provenance | self._sha256


def decoded(folder: Path, make: Callable, size: int) -> ArrayImages:
    """The set in `folder` (images.npy, labels.npy, classes.json, source.json), made from `make()` if it is not there.

    Raises if it was made from another source. This may be gone; then its name and options must agree.
    """
    if not folder.exists():
        with locked(folder.with_suffix(".lock")):
            if not folder.exists():  # another process may have made it meanwhile
                _decode(folder, make, size)
    file = folder / "source.json"
    found = json.loads(file.read_text()) if file.exists() else {"source": "not known"}
    for key, value in _source(make, folder, folder / "checked.json").items():
        if found.get(key) != value:
            raise SubcloningError(
                f"{folder} holds images of another source: its {key} is {found.get(key)}, wanted {value}. Give these a "
                "folder of their own (data.folder=...), or remove that one"
            )
    images = np.load(folder / "images.npy", mmap_mode="r")
    if images.shape[2:] != (size, size):
        raise SubcloningError(f"{folder} holds images of {images.shape[2:]}, wanted {size} x {size}: remove the folder")
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    classes = json.loads((folder / "classes.json").read_text())
    return ArrayImages(images, labels, classes, str(folder), found["sha256"])


def _source(make: Callable, folder: Path, memory: Path) -> dict:
    """What `make`, a class of sets and its arguments, was asked for; and what its files hold, where they are there."""
    kind, options = getattr(make, "func", make), dict(getattr(make, "keywords", {}))
    options.pop("download", None)
    files = []
    if hasattr(kind, "origin"):
        options, files = kind.origin(**options)
    elif "root" in options:  # torchvision's, which knows its files' checksums; relative, so that both may be moved
        options["root"] = os.path.relpath(options["root"], folder.parent)
    asked = {"source": {"set": f"{kind.__module__}.{kind.__qualname__}", **options}}
    return asked | ({"files": contents(files, memory)} if files else {})


def _decode(folder: Path, make: Callable, size: int) -> None:
    with atomic(folder) as temporary:
        temporary.mkdir()
        origin = _source(make, folder, temporary / "checked.json")
        source = make()
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
        parts = [sha256(temporary / name) for name in ("images.npy", "labels.npy", "classes.json")]
        origin["sha256"] = hashlib.sha256("".join(parts).encode()).hexdigest()
        (temporary / "source.json").write_text(json.dumps(origin, indent=1) + "\n")
