"""A new family is a table and its probes: here a residual MLP that no library knows."""

import torch
from residual_mlp import ResidualMLP, residual_mlp
from tiny import randomise

from subcloning import permute, score, subclone


def test_a_family_is_a_table():
    with residual_mlp():
        parent, child = randomise(ResidualMLP(16, 24, 4)), ResidualMLP(8, 12, 2)
        x = torch.randn(5, 7)
        scores = score(parent, [x])
        torch.testing.assert_close(permute(parent, scores)(x), parent(x), atol=1e-5, rtol=1e-5)
        subclone(parent, child, scores=scores)
        kept = scores.of("residual").argsort(descending=True, stable=True)[:8]
        assert torch.equal(child.stem.weight, parent.stem.weight[kept])
        torch.testing.assert_close(child.head.weight, parent.head.weight[:, kept] * 2**0.5)
