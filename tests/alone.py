"""What tests/test_wheel.py runs where only the wheel is installed: a model of a family of its own, and its children."""

import sys

import torch
from residual_mlp import ResidualMLP, residual_mlp

import subcloning
from subcloning import Plan, Scores, apply_plan, make_plan, score, subclone, verify

x = torch.randn(64, 7, generator=torch.Generator().manual_seed(0))
with residual_mlp(), torch.no_grad():
    torch.manual_seed(0)
    parent = ResidualMLP(16, 24, 4)
    verify(parent, x)

    twin = subclone(parent, ResidualMLP(16, 24, 4), [x])  # of full size, it is the parent
    torch.testing.assert_close(twin(x), parent(x))

    for select in ("importance", "principal"):
        child = subclone(parent, ResidualMLP(8, 12, 2), [x], select=select, refit=True)
        assert child(x).isfinite().all()

    scores = score(parent, [x])
    scores.save("scores.safetensors")
    make_plan(parent, child, Scores.load("scores.safetensors")).save("plan.safetensors")
    loaded = apply_plan(Plan.load("plan.safetensors"), parent, ResidualMLP(8, 12, 2))
    torch.testing.assert_close(loaded(x), subclone(parent, child, scores=scores)(x), rtol=0, atol=0)

print(subcloning.__file__)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
