"""Is a family's table right about a model? What changes no outputs by the table is done to it, and must change none."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import SubcloningError
from .anatomy import Anatomy
from .plan import make_plan
from .principal import Folded, is_centred, rotation
from .surgery import apply_plan

TOLERANCE = 0.01  # of the outputs' size; mistakes that were tried move them by 0.1 or more, rounding by 1e-5


class Verified(NamedTuple):
    """How far the outputs moved, relative to their size (L2); `rotated` is None where that was not asked for."""

    permuted: float
    rotated: float | None


@torch.no_grad()
def verify(model: nn.Module, batch: Tensor | Mapping[str, object], *, rotate: bool = True, seed: int = 0) -> Verified:
    """Hold a model against its family's table; raises SubcloningError where the two do not agree.

    In a copy of the model (float32 or better), heads, hidden units and the residual stream are permuted at random, all
    of them kept; then, with `rotate`, the stream is rotated at random and gains are folded, as `principal` does. That
    may not change what the model puts out for `batch`, a tensor or a mapping of keyword arguments. Gains and biases are
    disturbed first, since a gain of one and a bias of zero hide mistakes.

    It sees: axes that are swapped or not the tensor's; norms, readers and gains that are missing, misspelt or stored in
    another form; tensors used elsewhere than the table says; anything that looks at single neurons of the stream. And,
    on nn.Linear and nn.Conv, arrows that are missing or point the wrong way.
    It does not see: arrows on layers of other classes, probes that read the wrong module, axes without a probe, and
    what this batch does not reach. Of a model without a head the outputs are the stream, and move with it.

    rotate: False for models that can be permuted only; others are refused (see `Anatomy.norms`).
    """
    model = copy.deepcopy(model).eval()
    model.to(torch.promote_types(next(model.parameters()).dtype, torch.float32))
    anatomy = Anatomy(model)
    _check_arrows(anatomy)
    generator = torch.Generator().manual_seed(seed)
    _disturb(anatomy, generator, centred=rotate and is_centred(anatomy))
    wanted = _outputs(model, batch)

    def moved(maps: dict[str, Tensor], what: str) -> float:
        plan = make_plan(anatomy, anatomy, select="first")  # keeps all
        plan.maps.update(maps)
        found = _outputs(apply_plan(plan, anatomy, copy.deepcopy(model)), batch)
        stream = maps["residual"]
        if anatomy.has_head:
            expected = wanted
        else:
            expected = wanted[..., stream] if stream.ndim == 1 else wanted @ stream.double().T
        change = float((found - expected).norm() / wanted.norm())
        if not change < TOLERANCE:
            raise SubcloningError(
                f"the {anatomy.family.name} table does not describe this model: {what} moves its outputs by "
                f"{change:.2g} of their size. Look for wrong axes, and for norms, readers or gains that are missing"
            )
        return change

    cut = [key for key in anatomy.sizes if key.partition(".")[0] in anatomy.family.probes]
    orders = {key: torch.randperm(anatomy.sizes[key], generator=generator) for key in cut}
    permuted = moved(orders, "permuting its units")
    return Verified(permuted, moved(_rotation(anatomy, generator), "rotating its residual stream") if rotate else None)


def _outputs(model: nn.Module, batch: Tensor | Mapping[str, object]) -> Tensor:
    """The model's first output: of a library's, the logits."""
    found = model(**batch) if isinstance(batch, Mapping) else model(batch)
    while not isinstance(found, Tensor):
        found = next(iter(found.values())) if isinstance(found, Mapping) else found[0]
    return found.double()


def _check_arrows(anatomy: Anatomy) -> None:
    for layer, module in anatomy.model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd) and (name := f"{layer}.weight") in anatomy.aliases:
            row, _, layout = anatomy.row_of(name)
            inputs = [axis for dim in layout.dims[1:] for axis in dim if not axis.isdigit()]
            if sorted(layout.fan_in) != sorted(inputs):
                raise SubcloningError(
                    f"{row!r} has the axes {layout.text!r}, but a {type(module).__name__} sums over {' '.join(inputs)}"
                    ": the arrow points from there to the first axes"
                )


def _disturb(anatomy: Anatomy, generator: torch.Generator, centred: bool) -> None:
    """Make gains and biases differ between neurons; but a LayerNorm's is even that is not folded, see `turned_to`."""
    for tensor in anatomy.tensors.values():
        if tensor.ndim == 1:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            tensor += 0.3 * noise * tensor.square().mean().sqrt().clamp(min=0.3)
    for norm in Folded(anatomy, anatomy.tied).unfolded if centred else ():
        anatomy[f"{norm}.weight"].fill_(anatomy[f"{norm}.weight"].mean())


def _rotation(anatomy: Anatomy, generator: torch.Generator) -> dict[str, Tensor]:
    """Maps of a random rotation of the stream."""
    size = anatomy.sizes["residual"]
    factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return rotation(anatomy, anatomy, factor @ factor.T, lost=0.0)[0]
