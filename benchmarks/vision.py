"""Speed of image classification: loaders and the training step, side by side with timm and with a bare loop.

    .venv/bin/python benchmarks/vision.py     (five minutes on 2 CPU cores, alone on the machine)

Large sets: JPEG files of ImageNet's sizes through our loader and through `timm.data.create_loader`, with the same
transforms and workers, images as the model takes them. Training: the child of the CIFAR-10 study for CPUs, our module
under Lightning, without and with its parent as a teacher, and a bare PyTorch loop, on images in memory that need
nothing done. Small sets: our loader of 32 x 32 images, shifted, flipped and normalised, against what that child takes.
Rounds take turns, and medians are compared.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from clock import Clock
from pytorch_lightning import Callback, Trainer
from timm.data import create_dataset, create_loader
from timm.optim import param_groups_weight_decay

from subcloning.data.images.augment import Recipe
from subcloning.data.images.cached import ArrayImages
from subcloning.data.images.datamodule import ImageData
from subcloning.data.images.streamed import StreamedImages
from subcloning.data.images.synthetic import folder
from subcloning.training.classification import ImageClassifier
from subcloning.training.distillation import Teacher
from subcloning.training.interruptions import StopAtStep
from subcloning.training.run import SeededSteps

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
QUIET = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
ROUNDS, WARMUP, STEPS = 5, 5, 25
OPTIM = {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.999], "warmup_epochs": 0, "epochs": 1}


def trainer(data: ImageData, *callbacks: Callback) -> Trainer:
    data.trainer = Trainer(
        max_epochs=1, gradient_clip_val=1.0, callbacks=list(callbacks), limit_val_batches=0, accelerator="cpu", **QUIET
    )
    return data.trainer


def per_second(batches) -> float:
    """Images/s of all batches but the first, which waits for the workers to start."""
    batches = iter(batches)
    next(batches)
    start, count = time.perf_counter(), 0
    for images, _ in batches:
        count += len(images)
    return count / (time.perf_counter() - start)


def streaming(root: str, workers: int) -> tuple[float, float]:
    """Images/s of our loader and of timm's, of normalised float32 images of 224 pixels."""
    recipe = Recipe(crop=(0.08, 1.0), flip=0.5, auto_augment="rand-m9-mstd0.5-inc1")
    preprocessing = HALF | {"interpolation": "bicubic", "crop_pct": 0.9}
    options = {"image_size": 224, "preprocessing": preprocessing, "recipe": recipe, "batch_size": 32, "seed": 0}
    data = StreamedImages(root, root, **options, workers=workers)
    trainer(data)
    ours = per_second(data.transform(images, labels) for images, labels in data.train_dataloader())
    theirs = create_loader(
        create_dataset("", root),
        224,
        32,
        is_training=True,
        scale=recipe.crop,
        hflip=recipe.flip,
        auto_augment=recipe.auto_augment,
        color_jitter=0.0,
        interpolation="bicubic",
        **HALF,
        num_workers=workers,
        use_prefetcher=False,
        persistent_workers=False,
    )
    return ours, per_second(theirs)


def small_set(images: int, recipe: Recipe) -> ImageData:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (images, 3, 32, 32), np.uint8)
    part = ArrayImages(pixels, torch.from_numpy(draw.integers(0, 10, images)), [str(n) for n in range(10)])
    return ImageData(
        part, part, classes=part.classes, preprocessing=HALF, recipe=recipe, batch_size=128, seed=0, on_batch=True
    )


def model(heads: int = 2) -> torch.nn.Module:
    """The child of experiments/vit_cifar10_cpu; with four heads, its parent."""
    torch.manual_seed(0)
    shape = {"embed_dim": 32 * heads, "depth": 6, "num_heads": heads}
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10, **shape)


def ours(data: ImageData, teacher: Teacher | None = None) -> float:
    """Images/s of our module under Lightning, set up as in a run."""
    clock = Clock(WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        runner = trainer(data, clock, SeededSteps(0), StopAtStep(Path(folder)))
    module = ImageClassifier(model(), OPTIM, data.transform, data.steps_per_epoch)
    module.teacher = teacher
    runner.fit(module, data)
    return STEPS * data.batch_size / clock.seconds


def bare(data: ImageData) -> float:
    """Images/s of the shortest loop that trains the same model in the same way on one batch."""
    child = model()
    groups = param_groups_weight_decay(child, 0.1, no_weight_decay_list=child.no_weight_decay())
    optimiser = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    images, labels = torch.randn(data.batch_size, 3, 32, 32), torch.randint(10, (data.batch_size,))
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            start = time.perf_counter()
        F.cross_entropy(child(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(child.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return STEPS * data.batch_size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    with tempfile.TemporaryDirectory() as temporary:
        root = folder(str(Path(temporary) / "images"), classes=10, images=512)
        streams = [streaming(root, workers) for _ in range(ROUNDS)]
    data = small_set(128 * (WARMUP + STEPS), Recipe())
    data.train.images = torch.randn(data.train.images.shape)
    teacher = Teacher(model(heads=4), weight=0.5, temperature=2.0)
    steps = [(ours(data), bare(data), ours(data, teacher)) for _ in range(ROUNDS)]
    large = small_set(128 * 400, Recipe(shift=4, flip=0.5))
    trainer(large)
    loads = [per_second(large.transform(*batch) for batch in large.train_dataloader()) for _ in range(ROUNDS)]
    stream, timms = (statistics.median(column) for column in zip(*streams, strict=True))
    step, loop, distilled = (statistics.median(column) for column in zip(*steps, strict=True))
    load = statistics.median(loads)
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads, {workers} workers")
    print(f"large sets, images/s: {stream:.1f}, timm {timms:.1f}: {stream / timms:.2f} (goal: 1.0)")
    print(f"training, images/s: {step:,.0f}, bare loop {loop:,.0f}: {step / loop:.2f} (goal: 0.95)")
    print(f"training with the parent as teacher, images/s: {distilled:,.0f}: {distilled / step:.2f}")
    print(f"small sets, images/s: {load:,.0f}: {load / step:.0f} times what training takes (goal: 20)")


if __name__ == "__main__":
    main()
