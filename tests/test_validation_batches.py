"""Validation over several ranks: as many batches on each, every sample once, and padding that no metric sees."""

from types import SimpleNamespace

import pytest
import timm
import torch
from tiny import gpt2, inputs, randomise

from subcloning.data.batches import validation_batches
from subcloning.data.images.augment import BatchTransform, Recipe
from subcloning.data.images.digits import Digits
from subcloning.training.classification import ImageClassifier
from subcloning.training.language import LanguageModel

OPTIM = {"lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.95], "tokens": 8, "validate_every": 8, "warmup_tokens": 0}


@pytest.mark.parametrize(
    ("count", "size", "ranks"), [(65, 16, 2), (64, 16, 2), (450, 64, 4), (33, 32, 1), (3, 1, 8), (1, 7, 2), (97, 8, 96)]
)
def test_all_ranks_have_as_many_batches_and_every_sample_counts_once(count, size, ranks):
    """More ranks than samples included; the first case hung a sharded model on two ranks."""
    shares = [validation_batches(count, size, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    numbers = [n for share in shares for part, counted in share if counted for n in part.tolist()]
    assert sorted(numbers) == list(range(count))
    assert all(0 < len(part) <= size for share in shares for part, _ in share)


def test_the_loader_of_a_rank_without_images_of_its_own():
    recipe = Recipe()
    data = Digits(batch_size=64, seed=0, recipe=recipe)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=500, world_size=512, accumulate_grad_batches=1, strategy=device)
    ((images, labels), counted), *others = list(data.val_dataloader())
    assert (len(images), len(labels), counted, others) == (1, 1, False, [])


def classifier():
    options = {"embed_dim": 16, "num_heads": 4, "depth": 1, "img_size": 8, "patch_size": 2, "in_chans": 1}
    model = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=12, **options))
    transform = BatchTransform(Recipe(ema_decay=0.5), [0.5], [0.5], 12, on_batch=True)
    module = ImageClassifier(model, OPTIM, transform, steps_per_epoch=1)
    images = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return module.eval(), (images, torch.arange(9) % 3)


def found(module):
    metrics = {f"{prefix}_{name}": m for prefix, part in module.metrics.items() for name, m in part.items()}
    return {name: metric.compute() for name, metric in metrics.items()}


@torch.no_grad()
def test_no_metric_of_a_classifier_sees_the_padding():
    (module, batch), (other, _) = classifier(), classifier()
    for one in (module, other):
        one.validation_step((batch, True))
    other.validation_step(((batch[0][:1], batch[1][:1]), False))
    assert set(found(module)) == {f"{p}_{m}" for p in ("val", "val_ema") for m in ("accuracy", "loss", "top5")}
    assert found(other) == found(module)


@torch.no_grad()
def test_losses_of_batches_of_unequal_size_are_a_mean_over_images():
    module, (images, labels) = classifier()
    for part in ([0, 1, 2, 3, 4, 5, 6], [7], [8]):
        module.validation_step(((images[part], labels[part]), True))
    wanted = torch.nn.functional.cross_entropy(module.model(module.transform.normalised(images)), labels)
    torch.testing.assert_close(found(module)["val_loss"], wanted)


@torch.no_grad()
def test_losses_of_a_language_model_are_a_mean_over_blocks_and_padding_is_none():
    model = gpt2(depth=1)
    module = LanguageModel(model, OPTIM, batch_tokens=8, context=9).eval()
    tokens = inputs(model, batch=5)
    for part in ([0, 1, 2], [3], [4]):
        module.validation_step((tokens[part], True))
    module.validation_step((tokens[:1], False))
    torch.testing.assert_close(module.val_loss.compute(), module.loss(tokens))
