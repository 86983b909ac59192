"""A teacher's forward pass is part of what a run costs, and of how well it uses its devices."""

import re

import pytest
from tiny import gpt2

from subcloning import cost
from subcloning.training.distillation import Teacher
from subcloning.training.language import LanguageModel

OPTIM = {"tokens": 64, "validate_every": 32, "lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95], "warmup_tokens": 0}


@pytest.mark.parametrize("experiment", ["gpt2_stdlib", "digits"])
def test_cost_counts_the_teacher(config, capsys, experiment):
    said = []
    for overrides in ([], ["distill=parent"]):
        cost.main(config(f"experiment={experiment}", *overrides))
        said.append(capsys.readouterr().out)
    plain, taught = (float(re.search(r"tokens, (\S+?),? FLOPs", out)[1]) for out in said)
    per_token = float(re.search(r"parent .*parameters, (\S+) FLOPs per token", said[0])[1])
    tokens = float(re.search(r"one run of the child: (\S+) tokens", said[0])[1])
    assert taught == pytest.approx(plain + per_token / 3 * tokens, rel=0.02)
    teachers = float(re.search(r"FLOPs, (\S+) of them its teacher's", said[1])[1])
    assert teachers == pytest.approx(per_token / 3 * tokens, rel=0.02)
    assert "teacher" not in said[0]
    hours = [float(re.search(r"A100: (\S+)", out)[1].replace(",", "")) for out in said]
    assert hours[1] / hours[0] == pytest.approx(taught / plain, rel=0.02)


def test_utilisation_counts_the_teacher():
    def flops(**shape):
        return LanguageModel(gpt2(**shape), OPTIM, batch_tokens=32, context=16).flops_per_token

    taught = LanguageModel(gpt2(heads=2), OPTIM, batch_tokens=32, context=16)
    taught.teacher = Teacher(gpt2(heads=4), weight=0.5, temperature=2.0)
    assert taught.flops_per_token == pytest.approx(flops(heads=2) + flops(heads=4) / 3)
