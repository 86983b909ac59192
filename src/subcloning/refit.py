"""Re-fitting: the layers that write to the residual stream make up for the heads and hidden units that were cut.

Such a layer, y = W z + b, loses the columns of what the child does not have. What the lost inputs would have put out is
in part foretold by the kept ones. With the covariance C of the parent's own z, ridge regression of z on z[kept] gives

    A = C[:, kept] (C[kept, kept] + ridge * its mean variance)^-1,    W <- W A,    b <- b + W (mean - A mean[kept])

in place of W <- W[:, kept] and the scaling by sqrt(fan-in ratio).
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import torch
from einops import rearrange
from torch import Tensor, nn

from .axes import Anatomy, SubcloningError
from .plan import Plan, source_name
from .principal import Folded
from .scores import evaluating, model_inputs
from .surgery import transplant


@torch.no_grad()
def refit(
    plan: Plan,
    parent: nn.Module,
    child: nn.Module,
    batches: Iterable[Tensor | Mapping[str, object]],
    ridge: float = 1e-3,
) -> nn.Module:
    """Re-fit a subcloned `child`'s layers that write to the stream and lost inputs, and return it.

    batches: as for `score`; of each such layer n x n products of its n inputs are held. ridge: relative to the mean
    variance of the kept inputs.
    """
    p, c = Anatomy.of(parent), Anatomy.of(child)
    given = Folded(p, c.tied) if plan.rotated else p
    cut = {}  # child tensor -> its input dimension, and which of the parent's inputs it keeps
    for name in set(c.tensors) - set(plan.fresh):
        layout, block = c.layouts[name], c.blocks[name]
        for axis in set(layout.fan_in) - c.family.shared:
            kept = plan.map(name, c.family.key(axis, block), axis)
            if kept is not None:
                (dim,) = (i for i, axes in enumerate(layout.dims) if axis in axes)
                axes = " ".join(layout.dims[dim])
                inner = {a: size for a, size in p.inner.items() if a in layout.dims[dim]}
                size = p.tensors[source_name(c, name, plan.blocks)].shape[dim]
                units = rearrange(torch.arange(size), f"({axes}) -> {axes}", **inner)
                cut[name] = dim, units.index_select(layout.dims[dim].index(axis), kept).flatten()
    sources = {name: source_name(c, name, plan.blocks) for name in cut}
    moments: dict[str, list] = {}  # positions, sum and products of a layer's inputs

    def listen(source):
        def hook(module, args):
            z = args[0].float().flatten(0, -2)
            found = moments.setdefault(source, [0, 0, 0])
            for i, value in enumerate((len(z), z.sum(0), z.T @ z)):
                found[i] = found[i] + value

        return hook

    with ExitStack() as stack:
        stack.enter_context(evaluating(parent))
        for source in set(sources.values()):
            module = parent.get_submodule(source.removesuffix(".weight"))
            stack.callback(module.register_forward_pre_hook(listen(source)).remove)
        for batch in batches:
            args, kwargs = model_inputs(batch, next(parent.parameters()).device)
            parent(*args, **{**p.family.scoring_kwargs, **kwargs})
    if cut and not moments:
        raise SubcloningError("batches is empty: re-fitting needs at least one batch of the parent's data")
    for name, (dim, kept) in cut.items():
        count, total, products = (torch.as_tensor(x).cpu() for x in moments[sources[name]])
        mean = total / count
        covariance = products / count - mean.outer(mean)
        among = covariance[kept][:, kept]
        among.diagonal().add_(ridge * among.diagonal().mean().clamp(min=1e-12))  # silent inputs have none
        fit = torch.linalg.solve(among, covariance[kept]).T  # (parent's inputs, kept ones)
        source, target, layout = given[sources[name]], c.tensors[name], c.layouts[name]
        lost = set(layout.dims[dim])
        maps = {a: None if a in lost else plan.map(name, c.family.key(a, c.blocks[name]), a) for a in layout.axes}
        whole = target.new_empty([*target.shape[:dim], len(mean), *target.shape[dim + 1 :]])
        transplant(source, whole, layout, maps, p.inner, 1.0)
        whole = whole.movedim(dim, -1)
        target.movedim(dim, -1).copy_(whole @ fit.to(whole))
        if (bias := name.removesuffix("weight") + "bias") in c.tensors:
            c.tensors[bias] += whole @ (mean - fit @ mean[kept]).to(whole)
    return child
