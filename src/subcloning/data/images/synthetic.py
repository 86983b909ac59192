"""Made-up photographs: JPEG files of ImageNet's sizes, for dry runs and benchmarks."""

from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import SubcloningError
from ...files import atomic, locked


def folder(root: str, classes: int, images: int) -> str:
    """Make `images` files in `classes` class folders below `root`, if it is not there, and return it.

    Raises if there are others. A file's name says all that it was made from.
    """
    names = {f"class{number % classes:04}/{number:06}.jpg": number for number in range(images)}
    if not Path(root).exists():
        with locked(f"{root}.lock"):
            if not Path(root).exists():
                with atomic(root) as temporary:
                    for name, number in names.items():
                        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                        photograph(number, number % classes).save(temporary / name, quality=90)
    found = {file.relative_to(root).as_posix() for file in Path(root).glob("*/*")}
    if found != names.keys():
        raise SubcloningError(
            f"{root} holds {len(found)} files that are not {images} made-up images of {classes} classes: give these a "
            "folder of their own, or remove that one"
        )
    return root


def photograph(number: int, label: int) -> Image.Image:
    """An image of about 500 x 375, landscape or portrait: blurred noise, in colours that depend on the label."""
    draw = np.random.default_rng(number)
    width, height = (int(side) for side in draw.normal((500, 375), 40).clip(200, 800)[:: draw.choice((1, -1))])
    noise = draw.integers(0, 128, (24, 32, 3)) + np.random.default_rng(label).integers(0, 128, 3)
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
