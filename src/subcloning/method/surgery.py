"""Subcloning itself: each child tensor is its parent's, mapped along each axis, and scaled if it has a fan-in.

    for each child tensor:   rearrange to one dimension per axis,  map each axis,  rearrange back,  scale

Maps come from a `Plan`, axes and fan-in from the family's table; nothing here knows about a particular model.
"""

import copy
from collections.abc import Callable, Mapping
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import SubcloningError
from .anatomy import Anatomy
from .axes import Layout
from .matching import check_counterparts, source_name
from .observe import no_autocast
from .plan import Plan, make_plan
from .principal import Folded
from .scores import Scores


@torch.no_grad()
@no_autocast()
def apply_plan(
    plan: Plan, parent: nn.Module | Anatomy, child: nn.Module | Anatomy, *, scale: bool = True, scale_tied: bool = True
) -> nn.Module:
    """Fill `child` with what `plan` keeps of `parent`, and return it. The parent is not changed.

    scale: multiply each tensor that has a fan-in by sqrt(parent fan-in / child fan-in), which keeps the spread of the
        layer's outputs (paper 4.3). Embeddings, norms and biases have none and stay as they are.
    scale_tied: a head that is tied to the embedding cannot be scaled by itself; put its factor on the norm before it
        (measured in experiments/gpt2_stdlib).

    The child keeps its dtype, device and tied tensors; autocast has no effect. Raises SubcloningError before anything
    is copied if the plan is for other shapes or damaged, the child is on the meta device, or a parent tensor holds a
    NaN or infinite value; and on the way if a tensor overflows the child's dtype.
    """
    p, c = Anatomy.of(parent), Anatomy.of(child)
    check_shapes(plan, p, c)
    _check_values(p, c)
    cut = Cut(plan, p, c, scale, scale_tied)
    for name, target in c.tensors.items():
        if name not in plan.fresh:
            cut.write(name, target)
    for norm in cut.solved:
        c[f"{norm}.bias"].copy_(cut.bias(norm, c.__getitem__))
    return c.model


class Cut:
    """What a plan keeps of a parent for a child, one tensor at a time; arguments as for `apply_plan`."""

    def __init__(self, plan: Plan, parent: Anatomy, child: Anatomy, scale: bool = True, scale_tied: bool = True):
        self.plan, self.parent, self.child, self.scale, self.scale_tied = plan, parent, child, scale, scale_tied
        self.folded = Folded(parent, child.tied) if plan.rotated else None
        for norm in self.folded.unfolded if self.folded else ():
            if not plan.rotates(f"{norm}.weight:residual"):
                raise SubcloningError(
                    f"the plan has no rotated map of {norm}.weight, as one of an older version has none: make it again"
                )

    def write(self, name: str, target: Tensor) -> None:
        """Fill `target` with child tensor `name`; a bias in `solved` is filled with zeros."""
        plan, c = self.plan, self.child
        factor = fan_in_factor(plan, c, name, self.scale_tied) if self.scale else 1.0
        source = (self.folded or self.parent)[source_name(c, name, plan.blocks)]
        transplant(source, target, c.layouts[name], plan.maps_of(name, c), self.parent.inner, factor)
        if not is_finite(target):
            if not is_finite(source):
                raise SubcloningError(f"the parent's tensor of the child's {name} holds NaN or infinite values")
            raise SubcloningError(
                f"{name} overflows the child's {target.dtype}, and the child is filled in part: build it anew in "
                "bfloat16 or float32"
            )

    @property
    def solved(self) -> list[str]:
        """The child's norms whose bias is found last, by `bias`."""
        if self.folded is None:
            return []
        mother = {norm: source_name(self.child, f"{norm}.weight", self.plan.blocks) for norm in self.child.norms}
        return [norm for norm, name in mother.items() if self.folded.loses_bias(name.removesuffix(".weight"))]

    def bias(self, norm: str, weight_of: Callable[[str], Tensor]) -> Tensor:
        """The bias of a norm that not all readers have a bias for: by least squares, the one with which the child's
        readers, whose weights are `weight_of` their names, put out the constants that the parent's do."""
        assert self.folded is not None  # see solved
        plan, child = self.plan, self.child
        size = len(child.tensors[f"{norm}.bias"])
        products, wanted = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for name in (f"{reader}.weight" for reader in child.norms[norm]):
            layout, source = child.layouts[name], source_name(child, name, plan.blocks).removesuffix(".weight")
            weight = weight_of(name).movedim(layout.dim_of("residual"), -1)
            constant = weight.new_empty(len(weight))
            transplant(
                self.folded.constant(source), constant, layout.outputs, plan.maps_of(name, child), self.parent.inner
            )
            for some, values in zip(weight.split(4096), constant.split(4096), strict=True):  # a head may have many rows
                some, values = some.double().cpu(), values.double().cpu()
                products += some.T @ some
                wanted += some.T @ values
        return torch.linalg.lstsq(products, wanted[:, None], driver="gelsd").solution[:, 0]


def transplant(
    source: Tensor,
    target: Tensor,
    layout: Layout,
    maps: Mapping[str, Tensor | None],
    inner: Mapping[str, int],
    factor: float = 1.0,
) -> None:
    """Write `source`, with each axis in `maps` selected from or rotated, times `factor` into `target`."""
    # Views with one dimension per axis, of parent and child.
    dims, names = layout.einops
    expand = f"{dims} -> {' '.join(names)}"
    known = {name: inner[axis] for name, axis in zip(names, layout.axes, strict=True) if axis in inner}
    cut = {name: len(kept) for name, axis in zip(names, layout.axes, strict=True) if (kept := maps[axis]) is not None}
    own = {name: cut.get(name, size) for name, size in known.items()}  # a child's heads may be smaller
    source, target = rearrange(source, expand, **known), rearrange(target, expand, **own)
    mapped = [(dim, kept.to(source.device)) for dim, axis in enumerate(layout.axes) if (kept := maps[axis]) is not None]
    for dim, kept in sorted(mapped, key=lambda pair: pair[1].ndim):  # what is selected need not be rotated first
        if kept.ndim == 1:
            source = source.index_select(dim, kept)
        else:
            finer = torch.promote_types(source.dtype, kept.dtype)
            source = torch.tensordot(kept.to(finer), source.to(finer), ([1], [dim])).movedim(0, dim)
    if factor == 1:
        target.copy_(source)
    else:  # in the finer of both dtypes, and rounded once; never in place, since nothing may have been cut
        torch.mul(source.to(torch.promote_types(source.dtype, target.dtype)), factor, out=target)


def fan_in_factor(plan: Plan, child: Anatomy, name: str, scale_tied: bool = False) -> float:
    """sqrt(parent fan-in / child fan-in) of child tensor `name`; 1 if its layout has no arrow.

    scale_tied: with the factor of a tied tensor, where `name` takes it in that one's place.

    Along a rotated stream only what reads a norm has a factor: the norm divides by the length of what is left.
    """
    keys = [child.family.key(axis, child.blocks[name]) for axis in child.layouts[name].fan_in]
    for tied, stand_ins in child.family.tied.items():
        if scale_tied and name in stand_ins and tied in child.tied:
            keys += [child.family.key(axis, None) for axis in child.family.rows[tied][1].fan_in]
    energy = 1.0
    if any(map(plan.rotates, keys)):
        readers = {f"{layer}.weight" for norm, layers in child.norms.items() for layer in (norm, *layers)}
        keys = [key for key in keys if name in readers or not plan.rotates(key)]
        energy = plan.energy if any(map(plan.rotates, keys)) else 1.0
    return (energy * prod(plan.sizes[key][0] / plan.sizes[key][1] for key in keys)) ** 0.5


def is_finite(tensor: Tensor) -> bool:
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())


def permute(parent: nn.Module, scores: Scores) -> nn.Module:
    """A copy of `parent` with heads, hidden units and residual stream sorted by falling importance; same outputs.

    Taking the `first` units of the copy is subcloning by `importance`: the paper's own description (Fig. 4).
    """
    p = Anatomy.of(parent)
    plan = make_plan(p, p, scores)
    for key in p.sizes:
        axis, _, block = key.partition(".")
        if axis in p.family.probes:
            ranking = scores.of(axis, int(block) if block else None)
            plan.maps[key] = ranking.argsort(descending=True, stable=True)
    return apply_plan(plan, p, copy.deepcopy(p.model))


def check_shapes(plan: Plan, p: Anatomy, c: Anatomy) -> None:
    """Raise SubcloningError unless the plan is whole, and for a parent and a child of these shapes."""
    if not plan.family == p.family.name == c.family.name:
        raise SubcloningError(
            f"the plan is for {plan.family}, the parent a {p.family.name}, the child a {c.family.name}"
        )
    if (p.depth, c.depth) != plan.sizes["block"]:
        raise SubcloningError(f"the plan takes {plan.sizes['block']} blocks, these models have {(p.depth, c.depth)}")
    check_counterparts(p, c, plan.blocks, plan.fresh, ignored=plan.ignored)
    for name, layout in c.layouts.items():
        block = c.blocks[name]
        for axis in layout.axes:
            there = None if block is None else plan.blocks[block]
            pair = (p.size(axis, there), c.size(axis, block))
            key = c.family.key(axis, block)
            planned = plan.sizes.get(key, pair)
            if pair != planned:
                raise SubcloningError(
                    f"{name}, axis {axis}: the plan takes {planned[0]} to {planned[1]}, these models are {pair[0]} and "
                    f"{pair[1]}: make a plan for them"
                )
            kept = plan.map(name, key, axis)
            if name in plan.fresh or (kept is None and pair[0] == pair[1]):
                continue
            if (
                kept is None
                or len(kept) != pair[1]
                or kept.shape[1:] not in ((), (pair[0],))
                or not is_finite(kept)
                or (kept.ndim == 1 and not 0 <= kept.min() <= kept.max() < (pair[0] or 0))
            ):
                raise SubcloningError(
                    f"the plan has no map of {pair[1]} indices for {name}, axis {axis}, which are below {pair[0]}, "
                    f"or of {pair[1]} rows of finite numbers: make it again"
                )


def _check_values(p: Anatomy, c: Anatomy) -> None:
    for what, anatomy in (("parent", p), ("child", c)):
        if any(tensor.is_meta for tensor in anatomy.tensors.values()):
            raise SubcloningError(f"the {what} is on the meta device and has no values: build it on a real device")
    if any(tensor.is_inference() for tensor in c.tensors.values()):
        raise SubcloningError("the child was built in torch.inference_mode and cannot be written to: build it outside")
    if {t.data_ptr() for t in p.tensors.values()} & {t.data_ptr() for t in c.tensors.values() if t.numel()}:
        raise SubcloningError("parent and child share memory: build the child as a model of its own")
    for name, tensor in p.tensors.items():
        if not is_finite(tensor):
            raise SubcloningError(f"the parent's {name} holds NaN or infinite values: its training may have diverged")
