"""Distillation: the loss is what it says, no checkpoint holds the parent, and a run goes on as it would have."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from test_training import TINY, Interruption
from torch import nn

from subcloning import SubcloningError
from subcloning.training.distillation import Teacher
from subcloning.training.run import run


@pytest.fixture
def distilled(config, tmp_path):
    """distilled(name, ...) is the config of a run that learns from a tiny trained parent."""
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1"))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    common = ["experiment=digits", *TINY, f"parent.weights.checkpoint_path='{weights}'", "init=subclone"]
    return lambda name, *options: config(*common, f"name={name}", "optim.epochs=4", "distill=parent", *options)


def test_loss_and_gradient():
    """The gradient at the child's logits is that of the labels, and softmax against softmax at the temperature."""
    torch.manual_seed(0)
    parent, x, labels = nn.Linear(5, 7), torch.randn(2, 3, 5), torch.randint(7, (6,))
    logits = torch.randn(2, 3, 7, requires_grad=True)
    hard = F.cross_entropy(logits.flatten(0, 1), labels)
    Teacher(parent, 0.3, 4.0).loss(hard, logits, lambda model: model(x)).backward()
    wanted = 0.7 * (logits.softmax(-1).flatten(0, 1) - F.one_hot(labels, 7)) / 6
    wanted = wanted + 0.3 * 4 * ((logits / 4).softmax(-1) - (parent(x) / 4).softmax(-1)).flatten(0, 1) / 6
    torch.testing.assert_close(logits.grad.flatten(0, 1), wanted.detach())
    assert all(p.grad is None for p in parent.parameters())


def test_a_child_that_is_its_parent_has_nothing_to_learn_from_it():
    parent, x = nn.Linear(5, 7), torch.randn(4, 5)
    logits = parent(x)
    assert Teacher(parent, 1.0, 2.0).loss(torch.tensor(9.0), logits, lambda model: model(x)).abs() < 1e-6


@pytest.mark.parametrize(("decay", "share"), [(False, 0.9), (True, 0.9 * 0.75)])
def test_a_share_that_decays_falls_linearly(decay, share):
    torch.manual_seed(0)
    parent, x = nn.Linear(5, 7), torch.randn(4, 5)
    hard, soft = torch.tensor(3.0), Teacher(parent, 1.0, 2.0).loss(torch.tensor(0.0), x @ torch.eye(5, 7), parent_of(x))
    found = Teacher(parent, 0.9, 2.0, decay, lambda: 0.25).loss(hard, x @ torch.eye(5, 7), parent_of(x))
    torch.testing.assert_close(found, (1 - share) * hard + share * soft)


def parent_of(x):
    return lambda model: model(x)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_share_is_told_how_much_is_done(distilled, during, passes):
    """From 0 at the first step to the last step's, where several passes make a step, too."""
    found = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            found.append((trainer.global_step, module.teacher.decay, module.teacher.done()))

    cfg = distilled("watched", "distill.decay=true", f"micro_batch={64 // passes}")
    with during(Watch()):
        run(cfg)
    steps = found[-1][0] + 1
    assert found[0] == (0, True, 0)
    assert [done for _, _, done in found] == pytest.approx([step / steps for step, _, _ in found])


@pytest.mark.parametrize(("weight", "temperature"), [(0, 1), (1.1, 1), (0.5, 0)])
def test_settings_that_mean_nothing(weight, temperature):
    with pytest.raises(SubcloningError, match="expected a weight above 0, at most 1, and a temperature above 0"):
        Teacher(nn.Linear(1, 1), weight, temperature)


def test_distilled_run_resumes_and_its_checkpoint_is_the_childs_alone(distilled, during):
    undisturbed, plain = run(distilled("undisturbed")), run(distilled("plain", "~distill"))
    with pytest.raises(RuntimeError, match="pulled the plug"), during(Interruption()):
        run(distilled("disturbed"))
    resumed = run(distilled("disturbed"))
    assert {**resumed, "seconds": 0} == {**undisturbed, "seconds": 0}
    assert undisturbed["train_loss"] != plain["train_loss"]
    names = [
        list(torch.load(Path(distilled(name).run_dir) / "last.ckpt", weights_only=True)["state_dict"])
        for name in ("undisturbed", "plain")
    ]
    assert names[0] == names[1]
    with pytest.raises(SubcloningError, match=r"distill.weight = 0.5 \(wanted 0.7\)"):
        run(distilled("undisturbed", "distill.weight=0.7"))
