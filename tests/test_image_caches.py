"""Images decoded or made up before are used again for the same source only."""

import functools
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from subcloning import SubcloningError
from subcloning.data.images.augment import Recipe
from subcloning.data.images.cached import CachedImages
from subcloning.data.images.sets import Folder, HubImages
from subcloning.data.images.synthetic import folder as synthetic


def images(root, seed=0, size=8):
    """train/ and validation/, each of two classes of two images."""
    draw = np.random.default_rng(seed)
    for part in ("train", "validation"):
        for name in ("a/0", "a/1", "b/0", "b/1"):
            file = root / part / f"{name}.bmp"  # of one size, whatever it shows
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)).save(file)
    return root


@pytest.fixture
def decoded(tmp_path):
    """decoded(place, kind=): the images of `place`, by way of the one cache, which holds those of `photos`."""

    def open_(place="photos", kind=Folder, **options):
        parts = [
            functools.partial(kind, **{"root": str(tmp_path / place / part), **options})
            for part in ("train", "validation")
        ]
        return CachedImages(
            *parts,
            folder=str(tmp_path / "cache"),
            image_size=8,
            preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3},
            recipe=Recipe(),
            batch_size=2,
            seed=0,
        )

    images(tmp_path / "photos")
    open_()
    return open_


FOREIGN = "cache/train holds images of another source: its {} is .*, wanted .*Give these a folder of their own"


def test_images_of_another_root_are_refused(decoded, tmp_path):
    images(tmp_path / "other", seed=1)  # names and sizes are the same
    with pytest.raises(SubcloningError, match=FOREIGN.format("files")):
        decoded("other")
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    decoded("copy")


def test_an_image_replaced_in_place_is_noticed(decoded, tmp_path):
    file = tmp_path / "photos" / "train" / "b" / "0.bmp"
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    with pytest.raises(SubcloningError, match=FOREIGN.format("files")):
        decoded()


def test_images_in_other_classes_are_refused(decoded, tmp_path):
    (tmp_path / "photos" / "train" / "a").rename(tmp_path / "photos" / "train" / "c")
    with pytest.raises(SubcloningError, match=FOREIGN.format("files")):
        decoded()


def test_decoded_images_need_their_source_no_more(decoded, tmp_path):
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "photos" / "train").mkdir(parents=True)  # as of a disk that is not mounted
    assert len(decoded().provenance["train_sha256"]) == 64


def test_another_kind_of_set_is_refused(decoded):
    with pytest.raises(SubcloningError, match=FOREIGN.format("source")):
        decoded(kind=lambda root: None)


def test_images_decoded_before_sources_were_known_are_refused(decoded, tmp_path):
    (tmp_path / "cache" / "train" / "source.json").unlink()
    with pytest.raises(SubcloningError, match="its source is not known, wanted"):
        decoded()


def test_provenance_tells_pixels_apart(decoded, tmp_path):
    first = decoded().provenance
    shutil.rmtree(tmp_path / "cache")
    images(tmp_path / "photos", seed=1)
    second = decoded().provenance
    assert first["train_sha256"] != second["train_sha256"]


class Torchvision:
    """As torchvision's sets are made."""

    classes = ("a", "b")

    def __init__(self, root, train, download):
        self.colour = 10 + train

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Image.new("RGB", (8, 8), (self.colour, 0, 0)), index


def test_sets_that_do_not_tell_their_files(tmp_path):
    def opened(root, base=tmp_path, **options):
        parts = [functools.partial(Torchvision, root=str(root), train=train, **options) for train in (True, False)]
        preprocessing = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        options = {"image_size": 8, "preprocessing": preprocessing, "recipe": Recipe(), "batch_size": 2, "seed": 0}
        return CachedImages(*parts, folder=str(base / "cache"), **options)

    opened(tmp_path / "raw", download=True)
    opened(tmp_path / "raw", download=False)
    with pytest.raises(SubcloningError, match=FOREIGN.format("source")):
        opened(tmp_path / "raw2", download=True)
    (tmp_path / "moved").mkdir()
    (tmp_path / "cache").rename(tmp_path / "moved" / "cache")
    opened(tmp_path / "moved" / "raw", tmp_path / "moved", download=True)


def test_origin_of_hub_images(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"1")
    asked = {"split": "train", "image": "img"}
    assert HubImages.origin(str(tmp_path), "train", image="img") == (asked, [tmp_path / "x.parquet"])
    assert HubImages.origin("a/b", "train", image="img") == (asked | {"path": "a/b", "revision": None}, [])
    hub = HubImages.__new__(HubImages)
    hub.rows = SimpleNamespace(cache_files=[{"filename": f"/cache/a___b/default/0.0.0/{'c0' * 20}/b-train.arrow"}])
    assert hub.commit == "c0" * 20


@pytest.mark.parametrize("other", [{"classes": 2}, {"images": 5}, {"classes": 4, "images": 8}])
def test_other_made_up_images_are_refused(tmp_path, other):
    root = str(tmp_path / "made")
    synthetic(root, classes=3, images=6)
    with pytest.raises(SubcloningError, match=r"holds 6 files that are not .* made-up images"):
        synthetic(root, **{"classes": 3, "images": 6} | other)
