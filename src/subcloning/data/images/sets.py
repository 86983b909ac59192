"""Sets of images in torchvision's form, (PIL image, class number) pairs and `classes`, which can name each image.

`origin(...)`, with the arguments of the class, is what was asked for, but for places, and the files that hold it, if
they are there: by these a cache knows its source.
"""

import io
import os
import re
import traceback
from pathlib import Path

from PIL import Image
from torchvision.datasets import ImageFolder

from ...errors import SubcloningError
from ..contents import below, is_place


def read(source, index: int) -> tuple[Image.Image, int]:
    """Image `index` of `source` in RGB, and its class; SubcloningError, with its name, if it cannot be decoded."""
    try:
        image, label = source[index]
        return image.convert("RGB"), label
    except Exception as error:
        if not _is_decoding(error):
            raise
        name = source.name(index) if hasattr(source, "name") else f"image {index} of {source}"
        raise SubcloningError(f"{name} cannot be read as an image ({error}): replace or remove it") from error


def _is_decoding(error: Exception) -> bool:
    """Whether Pillow could not make sense of a file, for which it raises half a dozen kinds; not a disk or a bug."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    inside = frame.f_globals["__name__"].startswith("PIL.")
    return inside and not getattr(error, "errno", None) and not isinstance(error, MemoryError)


def same_classes(train, validation) -> None:
    """Raise unless both sets have the same classes in the same order."""
    if train.classes == validation.classes:
        return
    ours, theirs = set(train.classes), set(validation.classes)
    lacking = [
        f"{part} lacks {_some(names)}" for part, names in ((train, theirs - ours), (validation, ours - theirs)) if names
    ]
    raise SubcloningError(
        f"training and validation need the same classes, in the same order: {', '.join(lacking) or 'the order differs'}"
    )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Folder:
    """One folder per class, in alphabetical order, images below it."""

    def __init__(self, root: str):
        try:
            found = ImageFolder(root)
        except FileNotFoundError as error:
            raise SubcloningError(f"{root} must hold one folder of images per class: {error}") from error
        self.root, self.classes = root, found.classes
        self.samples = found.samples

    @classmethod
    def origin(cls, root: str) -> tuple[dict, list[Path]]:
        there = Path(root).is_dir() and any(entry.is_dir() for entry in os.scandir(root))
        return {}, [Path(file) for file, _ in cls(root).samples] if there else []

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        return self.root

    def name(self, index: int) -> str:
        return self.samples[index][0]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return Image.open(path), label


class HubImages:
    """A split of a set of the `datasets` library, by its name on the Hub, a folder of Parquet, or `save_to_disk`'s.

    image, label: names of its columns.
    """

    def __init__(
        self, path: str, split: str, *, revision: str | None = None, image: str = "image", label: str = "label"
    ):
        from datasets import Image as ImageColumn
        from datasets import load_dataset, load_from_disk

        if (Path(path) / "dataset_dict.json").exists():
            rows = load_from_disk(path)[split]
        else:
            rows = load_dataset(path, split=split, revision=revision)
        if lacking := {image, label} - set(rows.column_names):
            raise SubcloningError(f"{path} has columns {rows.column_names}, not {', '.join(sorted(lacking))}")
        self.path, self.split, self.image, self.label = path, split, image, label
        self.classes = list(rows.features[label].names)
        self.rows = rows.cast_column(image, ImageColumn(decode=False))

    @staticmethod
    def origin(path: str, split: str, revision: str | None = None, **columns: str) -> tuple[dict, list[Path]]:
        options = {"split": split, **columns}
        return (options, below(path)) if is_place(path) else (options | {"path": path, "revision": revision}, [])

    @property
    def commit(self) -> str | None:
        """Of the set on the Hub, as its library names the folder of its copy."""
        files = " ".join(file["filename"] for file in self.rows.cache_files)
        return next(iter(re.findall(r"/([0-9a-f]{40})/", files)), None)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return f"{self.path} ({self.split})"

    def name(self, index: int) -> str:
        return f"row {index} of {self}"

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        cell = row[self.image]
        return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"]), row[self.label]
