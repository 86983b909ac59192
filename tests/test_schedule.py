"""The learning rate of each step, as in all committed runs: the first is 0, which moves nothing."""

import pytest
import timm
import torch
from tiny import gpt2

from subcloning.data.images.augment import BatchTransform, Recipe
from subcloning.training.classification import ImageClassifier
from subcloning.training.language import LanguageModel

OPTIM = {"lr": 1.0, "weight_decay": 0.1, "betas": [0.9, 0.999]}


def images(warmup):
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=16, num_heads=4, depth=1, img_size=32)
    transform = BatchTransform(Recipe(), [0.5], [0.5], 10, on_batch=True)
    return ImageClassifier(model, OPTIM | {"epochs": 4, "warmup_epochs": warmup / 5}, transform, steps_per_epoch=5)


def text(warmup):
    optim = OPTIM | {"tokens": 160, "warmup_tokens": 8 * warmup, "validate_every": 160}
    return LanguageModel(gpt2(depth=1), optim, batch_tokens=8, context=8)


@pytest.mark.parametrize("module", [images, text])
@pytest.mark.parametrize(("warmup", "wanted"), [(5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, [1.0])])
def test_warm_up_begins_at_zero(module, warmup, wanted):
    module = module(warmup)
    setup = module.configure_optimizers()
    optimiser, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    before = [p.detach().clone() for p in module.parameters()]
    rates = []
    for step in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        schedule.step()
        if step == 0:
            still = all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
            assert still == (warmup > 0)
    assert rates[: len(wanted)] == pytest.approx(wanted)
    assert rates[len(wanted) :] == sorted(rates[len(wanted) :], reverse=True)
    assert 0 < rates[-1] < 0.05
