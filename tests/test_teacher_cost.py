"""A teacher's forward pass is part of what a run costs, and of how well it uses its devices."""

import re
from types import SimpleNamespace

import pytest
import torch

from subcloning import cost
from subcloning.training import flops
from subcloning.training.protocols import parent_of


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


def test_utilisation_counts_the_teacher(config, monkeypatch):
    """As if on a device of a known speed: the share of it is what was computed in a second."""
    monkeypatch.setattr(flops, "peak_flops", lambda device: 1e12)
    now = [0.0]
    monkeypatch.setattr(flops, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    said = []
    for overrides in ([], ["distill=parent"]):
        cfg = config("experiment=gpt2_stdlib", "data.context=64", *overrides)
        throughput = flops.Throughput(parent_of(cfg), cfg)
        speed: dict[str, float] = {}
        logger = SimpleNamespace(log_metrics=lambda metrics, step, speed=speed: speed.update(metrics))
        state, data = SimpleNamespace(fn="fit"), SimpleNamespace(batch_size=8)
        trainer = SimpleNamespace(state=state, datamodule=data, global_step=0, world_size=2, logger=logger)
        module = SimpleNamespace(device=torch.device("cpu"), unit=("tokens", 64))
        throughput.on_train_start(trainer, module)
        trainer.global_step = 10
        now[0] += 2.0
        throughput.on_validation_start(trainer, module)
        assert speed["tokens_per_second"] == 8 * 10 * 64 / 2
        child, teacher = flops.flops_per_sample(parent_of(cfg), cfg)
        assert speed["mfu"] == pytest.approx(8 * 10 / 2 * (child + teacher) / (2 * 1e12))
        said.append((child, teacher))
    assert said[0] == (said[1][0], 0)
    assert said[1][1] > said[0][0] / 3  # the teacher is wider
