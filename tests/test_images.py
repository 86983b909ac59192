"""Images: what is read, in which order, how it is augmented; and damaged or ill-fitting input."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

from subcloning import SubcloningError
from subcloning.data.batches import Steps, seed_all
from subcloning.data.images.augment import BatchTransform, Recipe, shifted_and_flipped
from subcloning.data.images.cached import CachedImages
from subcloning.data.images.datamodule import EpochBatches
from subcloning.data.images.preprocessing import agreed
from subcloning.data.images.sets import Folder, HubImages
from subcloning.data.images.streamed import StreamedImages
from subcloning.data.images.synthetic import folder as synthetic

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
VIT = HALF | {"interpolation": "bicubic", "crop_pct": 0.9}


def trainer(step=0, passes=1, rank=0, ranks=1):
    return SimpleNamespace(global_step=step, accumulate_grad_batches=passes, global_rank=rank, world_size=ranks)


def batches(trainer, size=103, batch_size=12, steps=4, validations=2, **options):
    """One interval between validations, of two in an epoch."""
    sampler = EpochBatches(
        trainer, Steps(trainer, steps), steps * validations, size=size, batch_size=batch_size, seed=1, **options
    )
    found = list(sampler)
    assert len(found) <= len(sampler)
    return found


def test_ranks_and_passes_partition_the_global_batch():
    whole = batches(trainer(step=8))
    parts = [batches(trainer(step=8, passes=2, rank=rank, ranks=3)) for rank in range(3)]
    assert len(whole) == 4
    for step, (indices, _) in enumerate(whole):
        share = torch.cat([part[i][0] for part in parts for i in (2 * step, 2 * step + 1)])
        assert sorted(share.tolist()) == sorted(indices.tolist())
    numbers = [number for part in parts for _, number in part]
    assert len(set(numbers)) == len(numbers)  # no two passes draw the same augmentations


def test_an_epoch_shows_each_image_once_and_epochs_differ():
    def epoch(first):
        return torch.cat([indices for step in (first, first + 4) for indices, _ in batches(trainer(step=step))])

    assert len(set(epoch(0).tolist())) == len(epoch(0)) == 96
    assert not torch.equal(epoch(0), epoch(8))


def test_order_goes_on_where_the_trainer_stands():
    whole, rest = batches(trainer(step=4)), batches(trainer(step=6))
    assert [number for _, number in rest] == [6, 7]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[2:], rest, strict=True))


def test_repeated_augmentation_gives_ranks_different_copies():
    ranks = [batches(trainer(rank=rank, ranks=3), repeats=3, size=108) for rank in range(3)]
    for (a, m), (b, n), _ in zip(*ranks, strict=True):
        assert torch.equal(a, b)  # the same images
        assert m != n  # drawn anew
    images = torch.cat([indices for indices, _ in ranks[0]])
    assert len(set(images.tolist())) == len(images)


def test_shift_and_flip():
    images = torch.arange(3 * 2 * 5 * 4).view(3, 2, 5, 4)
    assert torch.equal(shifted_and_flipped(images, 0, 0.0), images)
    assert torch.equal(shifted_and_flipped(images, 0, 1.0), images.flip(3))
    torch.manual_seed(0)
    padded = torch.nn.functional.pad(images.float(), [2, 2, 2, 2], mode="reflect").long()
    windows = {
        tuple(padded[n, :, y : y + 5, x : x + 4].flatten().tolist())
        for n in range(3)
        for y in range(5)
        for x in range(5)
    }
    found = [shifted_and_flipped(images, 2, 0.0) for _ in range(60)]
    assert all(tuple(image.flatten().tolist()) in windows for batch in found for image in batch)
    assert len({tuple(batch[0].flatten().tolist()) for batch in found}) > 15  # of 25


def test_normalisation_is_timms():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    wanted = create_transform(8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop_pct=1.0)(image)
    transform = BatchTransform(Recipe(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 10, on_batch=True)
    uint8 = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    torch.testing.assert_close(transform.normalised(uint8[None])[0], wanted)


def test_mixing_smoothing_and_erasing():
    images, labels = torch.full((64, 3, 16, 16), 255, dtype=torch.uint8), torch.arange(64) % 10
    both = Recipe(mixup=0.5, cutmix=0.5, label_smoothing=0.1, erase=1.0)
    seed_all(0)
    mixed, targets = BatchTransform(both, *HALF.values(), 10, on_batch=True)(images, labels)
    assert targets.shape == (64, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    assert targets.min() == pytest.approx(0.01)
    assert (mixed != 1).flatten(1).any(1).all()  # white is 1, and each image has an erased part
    same, classes = BatchTransform(Recipe(), *HALF.values(), 10, on_batch=True)(images, labels)
    assert (same == 1).all()
    assert torch.equal(classes, labels)


def test_seeds_reach_all_generators():
    def draw(*numbers):
        seed_all(*numbers)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first, other = draw(1, 2), draw(2, 1)
    assert first == draw(1, 2)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.fixture
def tree(tmp_path):
    """train/ and validation/ with three classes of 8 x 8 images: colour PNG, grey PNG, CMYK JPEG."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 4), ("validation", 2)):
        for name in ("a", "b", "c"):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(count):
                image = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
                image, suffix = (
                    (image, "png"),
                    (image.convert("L"), "png"),
                    (image.convert("CMYK"), "jpg"),
                )[n % 3]
                image.save(tmp_path / part / name / f"{n}.{suffix}")
    return tmp_path


def cached(tree, **options):
    made = []

    def make(part):
        made.append(part)
        return Folder(str(tree / part))

    options = {"folder": str(tree / "cache"), "image_size": 8, "preprocessing": HALF, "recipe": Recipe()} | options
    options = {"batch_size": 4, "seed": 0, "scoring_fraction": 0.5} | options
    return CachedImages(lambda: make("train"), lambda: make("validation"), **options), made


def test_cached_images_are_those_of_the_files_and_decoded_once(tree):
    data, made = cached(tree)
    assert made == ["train", "validation"]
    assert isinstance(data.train.images, np.memmap)
    for index, (path, label) in enumerate(Folder(str(tree / "train")).samples):
        image, labels = data.train[torch.tensor([index]), None]
        assert labels.item() == label
        assert np.array_equal(image[0].permute(1, 2, 0), np.asarray(Image.open(path).convert("RGB")))
    again, made = cached(tree)
    assert made == []
    assert np.array_equal(again.train.images, data.train.images)
    assert [len(batch) for batch in data.scoring_batches()] == [4, 2]
    whole, *parts = (torch.cat(list(data.scoring_batches(*share))) for share in ((0, 1), (0, 2), (1, 2)))
    assert sorted(map(str, whole)) == sorted(map(str, torch.cat(parts)))
    with pytest.raises(SubcloningError, match=r"holds images of \(8, 8\), wanted 16 x 16: remove"):
        cached(tree, image_size=16)


def test_cache_is_whole_or_not_there(tree):
    damage(tree / "train" / "b" / "2.jpg")
    with pytest.raises(SubcloningError, match=r"b/2\.jpg cannot be read as an image"):
        cached(tree)
    assert not (tree / "cache" / "train").exists()
    Image.new("RGB", (9, 8)).save(tree / "train" / "b" / "2.jpg")
    with pytest.raises(SubcloningError, match=r"is 9 x 8, expected 8 x 8.*data=image_folder"):
        cached(tree)
    Image.new("RGB", (8, 8)).save(tree / "train" / "b" / "2.jpg")
    assert len(cached(tree)[0].train) == 12


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def streamed(tree, **options):
    options = {"image_size": 8, "preprocessing": {}, "parent_preprocessing": VIT, "recipe": Recipe()} | options
    options = {"batch_size": 4, "seed": 0, "scoring_fraction": 0.5} | options
    return StreamedImages(str(tree / "train"), str(tree / "validation"), **options)


AUGMENTED = Recipe(crop=(0.3, 1.0), flip=0.5, auto_augment="rand-m9-mstd0.5", color_jitter=0.4)


def test_streamed_images_do_not_depend_on_the_workers(tree):
    data = streamed(tree, recipe=AUGMENTED)
    keys = [(torch.tensor([3, 1, 4]), 7), (torch.tensor([5, 9, 2]), 8), (torch.tensor([3, 1, 4]), 9)]
    once = [data.train[key] for key in keys]
    random.seed(5)
    twice = list(DataLoader(data.train, sampler=keys, batch_size=None, num_workers=2))
    for (a, labels), (b, again) in zip(once, twice, strict=True):
        assert a.dtype == torch.uint8
        assert torch.equal(a, b)
        assert torch.equal(labels, again)
    assert not torch.equal(once[0][0], once[2][0])  # the same images in another batch
    plain = data.validation[torch.arange(6), None]
    assert torch.equal(plain[0], data.validation[torch.arange(6), None][0])
    assert plain[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_transforms_are_timms_with_the_parents_preprocessing(tree):
    data = streamed(tree, recipe=AUGMENTED)
    (found,), _ = data.train[torch.tensor([5]), 3]
    recipe = {"scale": (0.3, 1.0), "auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4}
    options = {"interpolation": "bicubic", "mean": HALF["mean"], "normalize": False}
    wanted = create_transform(8, is_training=True, **recipe, **options)
    seed_all(0, 3, 0)
    assert torch.equal(found, wanted(Image.open(data.train.source.name(5)).convert("RGB")))


def test_strongest_augmentation_works_with_this_pillow(tree):
    """timm's posterize may keep no bits, which Pillow 13 refuses."""
    data = streamed(tree, recipe=Recipe(crop=(0.5, 1.0), auto_augment="rand-m10-n8-inc1"))
    for number in range(20):
        assert len(data.train[torch.arange(12), number][0]) == 12


def test_unreadable_images_are_named_or_counted(tree):
    damage(tree / "train" / "b" / "1.png")
    damage(tree / "validation" / "c" / "0.png")
    data = streamed(tree)
    with pytest.raises(SubcloningError, match=r"b/1\.png cannot be read as an image .*on_unreadable=skip"):
        data.train[torch.arange(12), 0]
    data = streamed(tree, on_unreadable="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*b/1\.png"):
        images, labels = data.train[torch.arange(12), 0]
    assert (len(images), labels.tolist(), data.skipped) == (12, [0] * 4 + [1] * 4 + [2] * 4, 1)
    with pytest.warns(UserWarning, match=r"c/0\.png"):
        (batch,) = DataLoader(data.validation, sampler=[(torch.arange(6), None)], batch_size=None)
    assert batch[1].tolist() == [0, 0, 1, 1, 2]
    assert data.skipped == 2
    with pytest.raises(SubcloningError, match="on_unreadable='never': expected error or skip"):
        streamed(tree, on_unreadable="never")


def test_class_folders(tree):
    (tree / "validation" / "d").mkdir()
    with pytest.raises(SubcloningError, match=r"validation must hold one folder of images per class: .*d"):
        streamed(tree)
    Image.new("RGB", (8, 8)).save(tree / "validation" / "d" / "0.png")
    with pytest.raises(SubcloningError, match=r"need the same classes.*train lacks d"):
        streamed(tree)
    with pytest.raises(SubcloningError, match=r"nowhere/train must hold one folder of images per class"):
        streamed(tree / "nowhere")


def test_numbers_that_do_not_fit(tree):
    with pytest.raises(SubcloningError, match="has 12 images, expected 1281167: is the copy complete"):
        streamed(tree, train_images=1_281_167)
    with pytest.raises(SubcloningError, match="batch_size=13 is more than the 12 training images"):
        streamed(tree, batch_size=13)
    data = streamed(tree, batch_size=6, recipe=Recipe(mixup=0.2))
    data.trainer = trainer(ranks=2)
    with pytest.raises(SubcloningError, match="batch_size=6 is 3 images per device and pass: they are mixed in pairs"):
        data.train_dataloader()
    with pytest.raises(SubcloningError, match="validations_per_epoch=4 is more than the 3 steps"):
        streamed(tree, validations_per_epoch=4)


@pytest.mark.parametrize(
    ("kind", "recipe", "lost"),
    [
        (cached, {"auto_augment": "original", "shift": 1}, "auto_augment=original"),
        (cached, {"crop": (0.1, 1.0)}, "crop"),
        (streamed, {"flip": 0.5}, "flip=0.5"),
        (streamed, {"shift": 2}, "shift=2"),
    ],
)
def test_recipes_that_a_set_cannot_follow_are_refused(tree, kind, recipe, lost):
    with pytest.raises(SubcloningError, match=rf"recipe\.{lost}.* is not for"):
        kind(tree, recipe=Recipe(**recipe))


def test_preprocessing_is_the_parents():
    assert agreed({"mean": None}, VIT) == VIT
    assert agreed({"mean": [0.5, 0.5, 0.5]}, VIT | {"input_size": (3, 224, 224)}) == VIT | {"mean": [0.5, 0.5, 0.5]}
    with pytest.raises(SubcloningError, match=r"has crop_pct 1.0 \(the parent's: 0.9\).*override_preprocessing"):
        agreed({"crop_pct": 1.0}, VIT)
    assert agreed({"crop_pct": 1.0}, VIT, override=True)["crop_pct"] == 1.0


def test_preprocessing_mismatch_is_refused_by_both_kinds_of_data(tree):
    deit = VIT | {"mean": (0.485, 0.456, 0.406)}
    with pytest.raises(SubcloningError, match=r"mean \(0.5, 0.5, 0.5\) \(the parent's: \(0.485"):
        cached(tree, parent_preprocessing=deit)
    with pytest.raises(SubcloningError, match=r"mean"):
        streamed(tree, preprocessing=HALF, parent_preprocessing=deit)
    assert streamed(tree, parent_preprocessing=deit).preprocessing["mean"] == (0.485, 0.456, 0.406)
    with pytest.raises(SubcloningError, match="lacks mean, std, interpolation, crop_pct"):
        streamed(tree, parent_preprocessing=None)


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_hub_images_are_those_of_the_folders(tree, form, monkeypatch):
    from datasets import load_dataset

    monkeypatch.setenv("HF_HOME", str(tree / "hf"))
    sets = load_dataset("imagefolder", data_dir=str(tree), cache_dir=str(tree / "hf"))
    if form == "disk":
        sets.save_to_disk(tree / "copy")
    else:
        for split in sets:
            sets[split].to_parquet(tree / "copy" / f"{split}-00000.parquet")
    found = HubImages(str(tree / "copy"), "validation")
    wanted = Folder(str(tree / "validation"))
    assert found.classes == wanted.classes
    assert len(found) == len(wanted) == 6
    both = sorted((label, image.convert("RGB").tobytes()) for image, label in (found[i] for i in range(6)))
    assert both == sorted((label, image.convert("RGB").tobytes()) for image, label in (wanted[i] for i in range(6)))
    assert found.name(3).startswith("row 3 of ")
    with pytest.raises(SubcloningError, match=r"has columns .*, not picture"):
        HubImages(str(tree / "copy"), "train", image="picture")


def test_synthetic_folders_are_like_imagenet_and_always_the_same(tmp_path):
    root = Folder(synthetic(str(tmp_path / "a"), classes=3, images=7))
    again = Folder(synthetic(str(tmp_path / "b"), classes=3, images=7))
    assert [label for _, label in root.samples] == [0, 0, 0, 1, 1, 2, 2]
    sizes = {root[i][0].size for i in range(7)}
    assert all(150 < side < 900 for size in sizes for side in size)
    assert len(sizes) > 3
    assert all(root[i][0].tobytes() == again[i][0].tobytes() for i in range(7))
    before = (tmp_path / "a").stat().st_mtime_ns
    synthetic(str(tmp_path / "a"), classes=3, images=7)
    assert (tmp_path / "a").stat().st_mtime_ns == before
