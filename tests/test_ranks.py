"""Two ranks: they train as one does, a signal to one stops both, and what goes on is exact; sharded or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import CONFIGS
from safetensors.torch import load_file

from subcloning.training.run import run

CPU = ["logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true", "init=subclone", "optim.lr=1e-3"]
VIT = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=2", "recipe.ema_decay=0.9"]
GPT2 = ["parent.model.n_embd=16", "parent.model.n_layer=2", "parent.model.n_positions=32", "optim.batch_tokens=256"]
GPT2 += ["optim.tokens=24576", "optim.warmup_tokens=512", "optim.validate_every=6144"]
GPT2 += ["data.validation_tokens=544", "data.scoring_tokens=512"]  # 17 blocks: 3 batches and 2
RANDOM = ["recipe.mixup=0.2", "recipe.dropout=0.1", "recipe.shift=1"]


@pytest.fixture
def cases(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCLONING_CORPORA", str(tmp_path / "corpora"))
    run(config("experiment=digits_parent", *VIT, "optim.epochs=1", "logger=csv"))
    run(config("experiment=gpt2_stdlib_parent", *GPT2, "logger=csv"))
    (vit,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    (gpt2,) = (tmp_path / "runs" / "gpt2_stdlib_parent").glob("*/*/model")
    digits = ["experiment=digits", *VIT, *CPU, "optim.weight_decay=0.1", "optim.epochs=3"]
    digits += [f"parent.weights.checkpoint_path='{vit}'"]
    text = ["experiment=gpt2_stdlib", *GPT2, *CPU, "optim.weight_decay=0.1", f"parent.weights.path='{gpt2}'"]
    return {"digits": digits, "text": text}


def curve(tmp_path, name):
    (file,) = tmp_path.glob(f"runs/{name}/*/*/metrics.csv")
    return pd.read_csv(file)


def weights(tmp_path, name):
    files = sorted(tmp_path.glob(f"runs/{name}/*/*/model*/model.safetensors"))
    return {f"{file.parent.name}.{key}": value for file in files for key, value in load_file(file).items()}


def test_two_ranks(config, cases, tmp_path, record_property):
    two = {"ddp": ["trainer=cpu", "trainer.devices=2"], "fsdp": ["trainer=fsdp", *CPU[1:3], "trainer.devices=2"]}
    runs = {f"{data}_{how}": [*cases[data], *options] for data in cases for how, options in two.items()}
    runs["passes"] = [*cases["digits"], *two["fsdp"], *RANDOM, "micro_batch=16", "optim.clip=0.1"]
    command = ["torch.distributed.run", "--nproc-per-node=2", Path(__file__).with_name("ranks.py"), CONFIGS]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", *command, json.dumps(runs)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    for name in runs:
        assert curve(tmp_path, f"{name}_whole").equals(curve(tmp_path, f"{name}_broken")), name
        whole, broken = (weights(tmp_path, f"{name}_{how}") for how in ("whole", "broken"))
        assert all(torch.equal(whole[key], broken[key]) for key in whole), name
    record_property("interruptions", len(runs))
    assert any(key.startswith("model_ema.") for key in weights(tmp_path, "digits_fsdp_whole"))
    for data, options in cases.items():
        run(config(*options, "trainer=cpu", f"name={data}_one"))
        for how in two:
            one, other = curve(tmp_path, f"{data}_one"), curve(tmp_path, f"{data}_{how}_whole")
            pd.testing.assert_frame_equal(one, other, atol=2e-5, rtol=1e-5)
