"""A run that was stopped in mid-epoch goes on with another number of passes per step, and its curve is the same."""

import signal
from pathlib import Path

import pandas as pd
import pytest
from test_interruptions import Signals

from subcloning.training.interruptions import Interrupted
from subcloning.training.run import run

VIT = ["experiment=digits_parent", "parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=1"]
VIT += ["optim.epochs=3", "logger=csv"]  # 21 steps from one validation to the next
GPT2 = ["experiment=gpt2_stdlib_parent", "parent.model.n_embd=16", "parent.model.n_layer=1", "logger=csv"]
GPT2 += ["parent.model.n_positions=32", "optim.batch_tokens=256", "optim.tokens=5376", "optim.warmup_tokens=512"]
GPT2 += ["optim.validate_every=1792", "data.validation_tokens=512"]  # 7 steps


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return tmp_path_factory.mktemp("corpora")


def curve(cfg):
    return pd.read_csv(Path(cfg.run_dir) / "metrics.csv")


@pytest.mark.parametrize("part", ["middle", "before a validation"])
@pytest.mark.parametrize(("first", "then"), [("null", "2"), ("2", "null")])
@pytest.mark.parametrize("data", ["digits", "text"])
def test_the_curve_is_the_same(config, corpora, during, monkeypatch, data, first, then, part):
    monkeypatch.setenv("SUBCLONING_CORPORA", str(corpora))
    options, steps, scale = (VIT, 21, 8) if data == "digits" else (GPT2, 7, 1)
    micro = {"null": "null", "2": 2 * scale}
    whole = config(*options, "name=whole", f"micro_batch={micro[then]}")
    broken = [config(*options, "name=broken", f"micro_batch={micro[size]}") for size in (first, then)]
    run(whole)
    # The signal comes within a step, after which the run stops.
    step = steps + {"middle": steps // 2, "before a validation": steps - 2}[part]
    with pytest.raises(Interrupted), during(Signals([step], signal.SIGUSR1)):
        run(broken[0])
    run(broken[1])
    wanted = curve(whole)
    assert wanted["step"].tolist() == [0, steps, 2 * steps, 3 * steps]
    pd.testing.assert_frame_equal(curve(broken[1]), wanted, atol=2e-3, rtol=1e-4)
    assert curve(broken[1])["train_loss"].iloc[1:].notna().all()


def test_twice(config, during):
    """The second interruption is in the same epoch as the first."""
    cfgs = [config(*VIT, "name=broken", f"micro_batch={size}") for size in (16, 32, 64)]
    for cfg, step in zip(cfgs, (25, 30), strict=False):
        with pytest.raises(Interrupted), during(Signals([step], signal.SIGUSR1)):
            run(cfg)
    assert run(cfgs[-1])["step"] == 63
    assert curve(cfgs[-1])["step"].tolist() == [0, 21, 42, 63]
