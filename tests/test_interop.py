"""A child opens in plain timm and transformers, with no code of ours."""

import subprocess
import sys

import timm
import torch
from tiny import gpt2, inputs, outputs, vit

from subcloning import subclone


def run_plain(code):
    """Run `code` in a Python that has never heard of us, and return the numbers that it prints."""
    program = "import sys; sys.modules['subcloning'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return torch.tensor([float(word) for word in done.stdout.split()])


def test_vit_round_trip(tmp_path):
    parent, child = vit(), vit(heads=2, depth=2)
    subclone(parent, child, [inputs(parent)])
    timm.models.save_for_hf(child, tmp_path / "child", safe_serialization=True)
    found = run_plain(
        f"""
import timm, torch
child = timm.create_model("local-dir:{tmp_path / "child"}", pretrained=True).eval()
x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
print(*child(x).flatten().tolist())
"""
    )
    torch.testing.assert_close(found, outputs(child, inputs(child)).flatten())


def test_gpt2_round_trip(tmp_path):
    parent, child = gpt2(), gpt2(heads=2, depth=2)
    subclone(parent, child, [inputs(parent)])
    child.save_pretrained(tmp_path / "child")
    found = run_plain(
        f"""
import torch
from transformers import GPT2LMHeadModel
child = GPT2LMHeadModel.from_pretrained("{tmp_path / "child"}").eval()
assert child.lm_head.weight is child.transformer.wte.weight
x = torch.randint(37, (3, 10), generator=torch.Generator().manual_seed(1))
print(*child(x).logits.flatten().tolist())
"""
    )
    torch.testing.assert_close(found, outputs(child, inputs(child)).flatten())


def test_core_needs_neither_timm_nor_transformers_nor_training_libraries():
    """The core imports torch, einops and safetensors only; a family describes its library without importing it."""
    found = subprocess.run(
        [sys.executable, "-c", "import sys, subcloning; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    assert "einops" in loaded
    assert not loaded & {"timm", "transformers", "pytorch_lightning", "hydra", "wandb", "datasets", "matplotlib"}
