"""Controls for experiments: a child that keeps only a part of what it was given, or is scaled by measurement.

What makes a subcloned child train faster? Take one thing away at a time (experiments/controls).
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from .axes import Anatomy, SubcloningError
from .plan import Plan, source_name
from .scores import evaluating
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
    if any(map(plan.rotates, plan.maps)):
        raise SubcloningError("the outputs of a rotated layer are no longer its parent's: scale by sqrt(fan-in ratio)")
    p, c = Anatomy(parent), Anatomy(child)
    cut = [name for name in c.tensors if name not in plan.fresh and fan_in_factor(plan, c, name) != 1]
    sources = {name: source_name(c, name, plan.blocks).removesuffix(".weight") for name in cut}
    wanted: dict[str, Tensor] = {}

    def variance(module: nn.Module, output: Tensor) -> Tensor:
        """(units,) of the outputs without bias."""
        return (output if module.bias is None else output - module.bias).flatten(0, -2).var(0)

    def measure(source):
        def hook(module, args, output):
            wanted[source] = variance(module, output)

        return hook

    def scale(name):
        units = c.layouts[name].outputs
        maps = {axis: plan.map(name, c.family.key(axis, c.blocks[name]), axis) for axis in units.axes}

        def hook(module, args, output):
            found = variance(module, output)
            kept = torch.empty_like(found)
            transplant(wanted[sources[name]], kept, units, maps, p.inner, 1.0)
            factor = (kept.mean() / found.mean()).sqrt()
            module.weight.mul_(factor)
            return output * factor if module.bias is None else (output - module.bias) * factor + module.bias

        return hook

    for model, hook_of in ((parent, lambda name: measure(sources[name])), (child, scale)):
        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            for name in cut:
                module = model.get_submodule(sources[name] if model is parent else name.removesuffix(".weight"))
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
            model(batch)
    return child
