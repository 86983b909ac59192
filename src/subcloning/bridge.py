"""Bridging: what lost blocks did, the block before them takes over, as far as its own layers can.

A shallower child goes from block b straight to block n. What the blocks between added to the residual stream, D, is in
part foretold by z, the inputs of b's layers that write to the stream (attention output and MLP). With the weights G of
the ridge regression of D on z, over the parent's own activations,

    W <- W + G,    bias <- bias + mean(D) - G mean(z)

Blocks that are lost before the first one kept have none before them, and are lost without a bridge.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from .axes import Anatomy, SubcloningError
from .refit import Moments
from .scores import evaluating, model_inputs


@torch.no_grad()
def bridged(
    parent: nn.Module,
    blocks: Sequence[int],
    batches: Iterable[Tensor | Mapping[str, object]],
    ridge: float = 0.1,
) -> nn.Module:
    """A copy of `parent` for a child that keeps `blocks` of it: the others are silent there, and gaps are bridged.

    Silent blocks add nothing to the stream, so that scores of the copy are of what the child has. Give it in the
    parent's place to `score`, `make_plan` and `apply_plan`, with the same blocks.

    batches: as for `score`. For each gap n x n products are held; n is the size of z and of the stream together.
    ridge: relative to the mean variance of z.
    """
    model = copy.deepcopy(parent)
    anatomy = Anatomy(model)
    family, depth = anatomy.family, anatomy.depth
    if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise SubcloningError(f"blocks {list(blocks)}: expected some of 0 to {depth - 1}, each once and in order")
    gaps = {b: n - 1 for b, n in zip(blocks, [*blocks[1:], depth], strict=True) if n > b + 1}  # b -> the last lost
    layers = {block: writers(anatomy, block) for block in range(depth)}
    moments = {block: Moments() for block in gaps}
    seen: dict[str, Tensor] = {}  # inputs of layers, and the stream behind blocks

    def keep_input(name):
        return lambda module, args: seen.update({name: args[0].float().flatten(0, -2)})

    def keep_output(name):
        def hook(module, args, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).float().flatten(0, -2)

        return hook

    stream = family.probes["residual"].module
    with ExitStack() as stack:
        stack.enter_context(evaluating(parent))
        for name in {stream.format(block=block) for gap in gaps.items() for block in gap}:
            stack.callback(parent.get_submodule(name).register_forward_hook(keep_output(name)).remove)
        for name in [layer for block in gaps for layer in layers[block]]:
            stack.callback(parent.get_submodule(name).register_forward_pre_hook(keep_input(name)).remove)
        for batch in batches if gaps else ():
            args, kwargs = model_inputs(batch, next(parent.parameters()).device)
            parent(*args, **{**family.scoring_kwargs, **kwargs})
            for block, last in gaps.items():
                added = seen[stream.format(block=last)] - seen[stream.format(block=block)]
                moments[block].add(torch.cat([*(seen[layer] for layer in layers[block]), added], dim=-1))
    if any(not found.count for found in moments.values()):
        raise SubcloningError("batches is empty: bridging needs at least one batch of the parent's data")
    for block, found in moments.items():
        weights = [_outputs_first(anatomy, f"{layer}.weight") for layer in layers[block]]
        sizes = [weight.shape[1] for weight in weights]
        z, added = torch.arange(len(found.mean)).tensor_split([sum(sizes)])
        fit, offset = found.foretell(added, z, ridge)
        for layer, weight, part in zip(layers[block], weights, fit.split(sizes, dim=1), strict=True):
            weight += _ungained(anatomy, layer, part)
        if (bias := f"{layer}.bias") in anatomy.tensors:  # of the last layer
            anatomy.tensors[bias] += _ungained(anatomy, layer, offset)
    for layer in [layer for block in set(range(depth)) - {*blocks} for layer in layers[block]]:
        for parameter in model.get_submodule(layer).parameters():
            parameter.zero_()
    return model


def writers(anatomy: Anatomy, block: int) -> list[str]:
    """The layers of `block` that write to the residual stream."""
    shared = anatomy.family.shared
    matrices = {name: layout for name, layout in anatomy.layouts.items() if layout.fan_in}
    return [
        name.removesuffix(".weight")
        for name, layout in matrices.items()
        if anatomy.blocks[name] == block and not shared & {*layout.fan_in}
    ]


def _outputs_first(anatomy: Anatomy, name: str) -> Tensor:
    """A view (outputs, inputs) of the matrix `name`."""
    layout, tensor = anatomy.layouts[name], anatomy.tensors[name]
    return tensor if {*layout.dims[1]} <= {*layout.fan_in} else tensor.T


def _ungained(anatomy: Anatomy, layer: str, values: Tensor) -> Tensor:
    """`values`, first dimension the stream, for a `layer` whose outputs are multiplied by a gain (LayerScale)."""
    row = anatomy.rows[f"{layer}.weight"].removesuffix(".weight")
    weight = anatomy.tensors[f"{layer}.weight"]
    for gain, writer in anatomy.family.gains.items():
        name = gain.format(block=anatomy.blocks[f"{layer}.weight"])
        if writer == row and name in anatomy.tensors:
            gain = anatomy.tensors[name].view(-1, *[1] * (values.ndim - 1)).to(values)
            values = torch.where(gain != 0, values / gain, 0)
    return values.to(weight)
