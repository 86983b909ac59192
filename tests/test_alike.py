"""What children become alike in: the measures, and the script on finished runs."""

import importlib.util

import pytest
import torch
from test_training import TINY

from subcloning import SubcloningError
from subcloning.files import ROOT
from subcloning.training.run import run

SPEC = importlib.util.spec_from_file_location("alike", ROOT / "experiments" / "equal_time" / "alike.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def test_the_measures():
    """What is the same is alike in all; another basis changes features' coordinates, and nothing else."""
    torch.manual_seed(0)
    x, logits = torch.randn(50, 8), torch.randn(50, 5)
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    one, turned = (logits.log_softmax(-1), [x, 2 * x]), (logits.log_softmax(-1), [x @ basis, x @ basis])
    assert script.compare(one, turned) == pytest.approx({"kl": 0, "agree": 1, "cka": 1}, abs=1e-5)
    other = (torch.randn(50, 5).log_softmax(-1), [torch.randn(50, 8), torch.randn(50, 3)])
    found = script.compare(one, other)
    p, q = one[0], other[0]
    both = [torch.nn.functional.kl_div(b, a, log_target=True, reduction="batchmean") for a, b in ((p, q), (q, p))]
    assert found["kl"] == pytest.approx(float(sum(both) / 2), rel=1e-4)
    assert found["cka"] < 0.5
    assert found == pytest.approx(script.compare(other, one))


def test_finished_runs_are_compared(config, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "config", lambda name, *own: config(f"experiment={name}", "optim.lr=1e-3", *own))
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1"))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    options = [*TINY, f"parent.weights.checkpoint_path='{weights}'", "cases.epochs_25.epochs=1"]
    options += ["~cases.epochs_6", "~cases.epochs_100", "~cases.epochs_400"]
    with pytest.raises(SubcloningError, match="has 0 finished runs of seed 0, expected one: run them first"):
        script.alike("budgets_digits", *options)
    for init in script.INITS:
        for seed in script.SEEDS:
            run(config("experiment=budgets_digits", *options, f"init={init}", f"seed={seed}", "optim.lr=1e-3"))
    table = script.alike("budgets_digits", *options).set_index("pair")
    assert set(table["case"]) == {"epochs_25"}
    near, far = table.loc["subclone, subclone"], table.loc["random, subclone"]
    assert near["kl"] < far["kl"]  # two children of the same parent, and one of random weights
    assert near["cka"] > far["cka"]
    assert 0 < table.loc["subclone", "moved"] < 1
