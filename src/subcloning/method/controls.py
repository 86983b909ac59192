"""Controls for experiments: a child that keeps only a part of what it was given, or is scaled by measurement.

What makes a subcloned child train faster? Take one thing away at a time (experiments/controls).
"""

from functools import partial

import torch
from torch import Tensor, nn

from ..errors import SubcloningError
from .anatomy import Anatomy
from .matching import source_name
from .observe import Call, observe
from .plan import Plan
from .surgery import fan_in_factor, transplant

KEPT = ("shuffled", "spread", "embeddings", "blocks")


@torch.no_grad()
def keep_only(what: str, child: nn.Module, fresh: nn.Module, seed: int = 0) -> nn.Module:
    """Reduce a subcloned `child` to a part of what it holds, and return it; `fresh` is the same child as it was before.

    what:
        `shuffled`   all values, but those of each matrix in random order, by `seed`
        `spread`     fresh values, those of each matrix at the standard deviation that subcloning gave it
        `embeddings` what stands outside the blocks; the blocks are fresh
        `blocks`     the blocks; all else is fresh
    """
    if what not in KEPT:
        raise SubcloningError(f"what={what!r}: expected one of {', '.join(KEPT)}")
    generator = torch.Generator().manual_seed(seed)
    given, before = Anatomy(child), Anatomy(fresh).tensors
    for name, tensor in given.tensors.items():
        in_block, is_matrix = given.blocks[name] is not None, tensor.squeeze().ndim > 1
        if what == "shuffled" and is_matrix:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
        elif what == "spread":
            tensor.copy_(before[name] * (tensor.std() / before[name].std()) if is_matrix else before[name])
        elif (what == "embeddings" and in_block) or (what == "blocks" and not in_block):
            tensor.copy_(before[name])
    return child


@torch.no_grad()
def match_spread(plan: Plan, parent: nn.Module, child: nn.Module, batch: Tensor) -> nn.Module:
    """Scale each layer of a subcloned `child` whose fan-in was cut, so that its outputs vary as the parent's do.

    Instead of sqrt(parent fan-in / child fan-in), which takes a layer's inputs for independent. The variance over
    `batch` (the input of a forward pass) of a layer's outputs without bias, averaged over the units that the child has,
    is made equal to the parent's; layer by layer, so that each is measured on what the scaled ones before give it. A
    head that is tied to the embedding stays as it is.
    """
    if plan.rotated:
        raise SubcloningError("the outputs of a rotated layer are no longer its parent's: scale by sqrt(fan-in ratio)")
    p, c = Anatomy(parent), Anatomy(child)
    cut = [name for name in c.tensors if name not in plan.fresh and fan_in_factor(plan, c, name) != 1]
    sources = {name: source_name(c, name, plan.blocks).removesuffix(".weight") for name in cut}
    wanted: dict[str, Tensor] = {}

    def measure(source: str, call: Call) -> None:
        wanted[source] = call.rows(call.output).var(0)  # which a bias does not change

    def scale(name: str, call: Call) -> Tensor:
        units = c.layouts[name].outputs
        found = call.rows(call.output).var(0)
        kept = torch.empty_like(found)
        transplant(wanted[sources[name]], kept, units, plan.maps_of(name, c), p.inner)
        factor = (kept.mean() / found.mean()).sqrt()
        if not factor.isfinite():
            raise SubcloningError(
                f"the outputs of {name} are not finite or do not vary over this batch: give one of several positions, "
                "and check the parent's weights"
            )
        c.tensors[name].mul_(factor)
        return call.again(call.input)

    observe(parent, [(source, partial(measure, source)) for source in set(sources.values())], [batch])
    observe(child, [(name.removesuffix(".weight"), partial(scale, name)) for name in cut], [batch])
    return child
