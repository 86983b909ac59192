"""Scores without data: how large the weights of a unit are."""

import torch
from einops import rearrange
from torch import Tensor, nn

from .anatomy import Anatomy
from .scores import Scores


@torch.no_grad()
def score_weights(parent: nn.Module | Anatomy) -> Scores:
    """Score `parent` by its weights alone, where there is no data: the norm (L2) of all that a unit has.

    Those are the weights in its rows and columns of a block's matrices, without biases and norms; the group norm by
    which structured pruning ranks units (Fang et al., arXiv 2301.12900). A stand-in for `score`: it knows nothing of
    which units are used, of the blocks' influence or of the stream's covariance, so `select="principal"` and
    `blocks="least"` want the real one.
    """
    anatomy = Anatomy.of(parent)
    sums: dict[str, Tensor] = {}
    for name in anatomy.tensors:
        layout, block = anatomy.layouts[name], anatomy.blocks[name]
        if block is None or not layout.fan_in:
            continue
        tensor = anatomy[name]
        dims, names = layout.einops
        sizes = {name: anatomy.size(axis, block) for name, axis in zip(names, layout.axes, strict=True) if name != "1"}
        for name, axis in zip(names, layout.axes, strict=True):
            if axis not in anatomy.family.probes:
                continue
            rows = rearrange(tensor.detach().double(), f"{dims} -> {name} ({' '.join(sizes.keys() - {name})})", **sizes)
            key = f"{axis}.{block}"
            sums[key] = sums.get(key, torch.zeros(1)) + rows.square().sum(1).view(1, -1, 1).cpu()
    ordered = {f"{axis}.{b}": sums[f"{axis}.{b}"] for axis in anatomy.family.probes for b in range(anatomy.depth)}
    return Scores(ordered, dict.fromkeys(ordered, 1), anatomy.fingerprint, "weights")
