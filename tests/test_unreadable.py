"""An image that cannot be decoded is named or skipped; a missing file, a failing disk or a bug never is."""

import errno
import io

import numpy as np
import pytest
import torch
from PIL import Image

from subcloning import SubcloningError
from subcloning.data.images.augment import Recipe
from subcloning.data.images.sets import Folder
from subcloning.data.images.streamed import StreamedImages


@pytest.fixture
def data(tmp_path):
    """Four images a class, in which unreadable ones are skipped."""
    for n in range(8):
        file = tmp_path / "photos" / "ab"[n // 4] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(file)
    preprocessing = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_pct": 1.0}
    return StreamedImages(
        *[str(tmp_path / "photos")] * 2,
        image_size=8,
        recipe=Recipe(),
        seed=0,
        preprocessing=preprocessing,
        on_unreadable="skip",
        batch_size=4,
    )


def damaged(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 24), (200, 10, 30)).save(file, "png")
    png = file.getvalue()
    return {
        "empty": b"",
        "text": b"not an image",
        "cut": png[: len(png) // 2],
        "huge": b"P6 999999 999999 255\n",  # DecompressionBombError
        "size": b"P6 8 x 255\n",  # ValueError
        "crc": png[:60] + bytes(30) + png[90:],
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "huge", "size", "crc"])
def test_what_cannot_be_decoded_is_skipped(data, tmp_path, kind):
    (tmp_path / "photos" / "a" / "1.png").write_bytes(damaged(kind))
    with pytest.warns(UserWarning, match=r"skipped: .*a/1\.png cannot be read as an image"):
        images, _ = data.train[torch.arange(8), 0]
    assert (len(images), data.skipped) == (8, 1)


def test_a_missing_file_is_not(data, tmp_path):
    (tmp_path / "photos" / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a/1\.png"):
        data.train[torch.arange(8), 0]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O"), MemoryError(), TypeError("x")],
)
def test_a_disk_or_a_bug_is_not(data, monkeypatch, error):
    def fails(self, index):
        raise error

    monkeypatch.setattr(Folder, "__getitem__", fails)
    with pytest.raises(type(error)) as caught:
        data.train[torch.arange(8), 0]
    assert not isinstance(caught.value, SubcloningError)
    assert data.skipped == 0


def test_a_failing_disk_under_pillow_is_not(data, monkeypatch):
    def fails(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        data.train[torch.arange(8), 0]
