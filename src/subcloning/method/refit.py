"""Re-fitting: the layers that write to the residual stream make up for the heads and hidden units that were cut.

Such a layer, y = W z + b, loses the columns of what the child does not have. What the lost inputs would have put out is
in part foretold by the kept ones. With the covariance C of the parent's own z, ridge regression of z on z[kept] gives

    A = C[:, kept] (C[kept, kept] + ridge * its mean variance)^-1,    W <- W A,    b <- b + W (mean - A mean[kept])

in place of W <- W[:, kept] and the scaling by sqrt(fan-in ratio).
"""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import SubcloningError
from .anatomy import Anatomy
from .matching import source_name
from .observe import Call, no_autocast, observe
from .plan import Plan
from .principal import Folded
from .surgery import is_finite, transplant


@torch.no_grad()
@no_autocast()
def refit(
    plan: Plan,
    parent: nn.Module | Anatomy,
    child: nn.Module | Anatomy,
    batches: Iterable[Tensor | Mapping[str, object]],
    ridge: float = 1e-3,
) -> nn.Module:
    """Re-fit a subcloned `child`'s layers that write to the stream and lost inputs, and return it.

    Weights and biases of these layers are set, whatever the child holds: to do it twice changes nothing.

    batches: as for `score`, padding too. The moments of all layers are held at once: for each, n x n products of its n
        inputs, in float32, since those of GPT-2 large take 4 GB.
    ridge: relative to the mean variance of the kept inputs.
    """
    p, c = Anatomy.of(parent), Anatomy.of(child)
    # What goes into these layers is the same in a folded parent, only weights differ.
    weights = Folded(p, c.tied) if plan.rotated else p
    cut = {}  # child tensor -> its input dimension, and which of the parent's inputs it keeps
    for name in set(c.tensors) - set(plan.fresh):
        layout, block = c.layouts[name], c.blocks[name]
        own = {axis: plan.map(name, c.family.key(axis, block), axis) for axis in {*layout.fan_in} - c.family.shared}
        lost = {axis: indices for axis, indices in own.items() if indices is not None}
        if lost:
            (dim,) = (i for i, axes in enumerate(layout.dims) if lost.keys() <= {*axes})
            axes = " ".join(layout.dims[dim])
            inner = {a: size for a, size in p.inner.items() if a in layout.dims[dim]}
            size = p.tensors[source_name(c, name, plan.blocks)].shape[dim]
            units = rearrange(torch.arange(size), f"({axes}) -> {axes}", **inner)
            for axis, indices in lost.items():
                units = units.index_select(layout.dims[dim].index(axis), indices)
            cut[name] = dim, units.flatten()
    if not cut:
        return c.model
    sources = {name: source_name(c, name, plan.blocks) for name in cut}
    moments: dict[str, list] = {}  # positions, sum and products of a layer's inputs

    def add(source: str, call: Call) -> None:
        z = call.rows(call.input)
        found = moments.setdefault(source, [0, 0, 0])
        for i, value in enumerate((len(z), z.sum(0), z.T @ z)):
            found[i] += value

    hooks = [(source.removesuffix(".weight"), partial(add, source)) for source in set(sources.values())]
    observe(p.model, hooks, batches, partial(p.model, **p.family.scoring_kwargs))
    for name, (dim, kept) in cut.items():
        count, total, products = (torch.as_tensor(x).cpu() for x in moments[sources[name]])
        if not products.isfinite().all():
            raise SubcloningError(f"inputs of {sources[name]} are NaN or infinite: check the parent's weights and data")
        mean = total / count
        covariance = products / count - mean.outer(mean)
        among = covariance[kept][:, kept]
        among.diagonal().add_(ridge * among.diagonal().mean().clamp(min=1e-12))  # silent inputs have none
        fit = torch.linalg.solve(among, covariance[kept]).T  # (parent's inputs, kept ones)
        target, layout = c.tensors[name], c.layouts[name]
        whole_axes = set(layout.dims[dim])
        maps = {axis: None if axis in whole_axes else kept for axis, kept in plan.maps_of(name, c).items()}
        whole = target.new_empty([*target.shape[:dim], len(mean), *target.shape[dim + 1 :]])
        transplant(weights[sources[name]], whole, layout, maps, p.inner)
        whole = whole.movedim(dim, -1)
        target.movedim(dim, -1).copy_(whole @ fit.to(whole))
        bias = name.removesuffix("weight") + "bias"
        if bias in c.tensors:
            given = weights[source_name(c, bias, plan.blocks)]
            transplant(given, c.tensors[bias], c.layouts[bias], plan.maps_of(bias, c), p.inner)
            c.tensors[bias] += whole @ (mean - fit @ mean[kept]).to(whole)
        if not all(is_finite(c.tensors[written]) for written in (name, bias) if written in c.tensors):
            raise SubcloningError(f"{name} or its bias overflows the child's {target.dtype}: take bfloat16 or float32")
    return c.model
