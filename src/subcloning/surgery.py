"""Subcloning itself: each child tensor is its parent's, mapped along each axis, and scaled if it has a fan-in.

    for each child tensor:   rearrange to one dimension per axis,  map each axis,  rearrange back,  scale

Maps come from a `Plan`, axes and fan-in from the family's table; nothing here knows about a particular model.
"""

import copy
from collections.abc import Iterable, Mapping
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from .axes import Anatomy, Layout, SubcloningError
from .plan import Plan, check_counterparts, make_plan, rules_of, source_name
from .principal import folded
from .scores import Scores
from .scoring import score


def subclone(
    parent: nn.Module,
    child: nn.Module,
    batches: Iterable[Tensor | Mapping[str, object]] | None = None,
    *,
    scores: Scores | None = None,
    select: str | Mapping[str, str] = "importance",
    scale: bool = True,
    scale_tied: bool = True,
    refit: bool = False,
    **plan_options,
) -> nn.Module:
    """Fill `child`, a model of the wanted shape, from `parent`; return it. One call for score, plan and apply.

    Give `batches` of the parent's data (see `score`) or `scores` made from them. `select`, `blocks`, `seed` and
    `ignore_mismatched` are those of `make_plan`, `scale` and `scale_tied` those of `apply_plan`. refit: let the layers
    that write to the residual stream make up for the inputs that they lost (see `refit`); needs `batches`.
    """
    if refit:
        from .refit import refit as make_up  # which needs this module

        if batches is None:
            raise SubcloningError("refit=True needs batches of the parent's data: subclone(parent, child, batches)")
        batches = batches if isinstance(batches, Tensor | Mapping) else list(batches)  # to be read twice
    if scores is None and batches is not None:
        scores = score(parent, batches, stream="principal" in rules_of(select))
    plan = make_plan(parent, child, scores, select=select, **plan_options)
    apply_plan(plan, parent, child, scale=scale, scale_tied=scale_tied)
    return make_up(plan, parent, child, batches) if refit else child


@torch.no_grad()
def apply_plan(
    plan: Plan, parent: nn.Module, child: nn.Module, *, scale: bool = True, scale_tied: bool = True
) -> nn.Module:
    """Fill `child` with what `plan` keeps of `parent`, and return it. The parent is not changed.

    scale: multiply each tensor that has a fan-in by sqrt(parent fan-in / child fan-in), which keeps the spread of the
        layer's outputs (paper 4.3). Embeddings, norms and biases have none and stay as they are.
    scale_tied: a head that is tied to the embedding cannot be scaled by itself; put its factor on the norm before it
        (measured in experiments/gpt2_stdlib).

    The child keeps its dtype, device and tied tensors. Raises SubcloningError before anything is copied if the plan
    is for other shapes, the child is on the meta device, or a parent tensor holds a NaN or infinite value.
    """
    p, c = Anatomy(parent), Anatomy(child)
    _check(plan, p, c)
    if any(map(plan.rotates, plan.maps)):
        p = Anatomy(folded(parent))
    for name, target in c.tensors.items():
        if name in plan.fresh:
            continue
        layout, block = c.layouts[name], c.blocks[name]
        source = p.tensors[p.aliases[source_name(c, name, plan.blocks)]]
        maps = {axis: plan.map(name, c.family.key(axis, block), axis) for axis in layout.axes}
        transplant(source, target, layout, maps, p.inner, fan_in_factor(plan, c, name, scale_tied) if scale else 1.0)
    return child


def transplant(
    source: Tensor,
    target: Tensor,
    layout: Layout,
    maps: Mapping[str, Tensor | None],
    inner: Mapping[str, int],
    factor: float,
) -> None:
    """Write `source`, with each axis in `maps` selected from or rotated, times `factor` into `target`."""
    # Views with one dimension per axis, of parent and child.
    expand = f"{layout.einops} -> {' '.join(layout.axes)}"
    known = {axis: size for axis, size in inner.items() if axis in layout.axes}
    source, target = rearrange(source, expand, **known), rearrange(target, expand, **known)
    for dim, axis in enumerate(layout.axes):
        if maps[axis] is None:
            continue
        kept = maps[axis].to(source.device)
        if kept.ndim == 1:
            source = source.index_select(dim, kept)
        else:
            finer = torch.promote_types(source.dtype, kept.dtype)
            source = torch.tensordot(kept.to(finer), source.to(finer), ([1], [dim])).movedim(0, dim)
    if factor != 1:  # then an axis was cut and this is a copy; scaled in the finer of both dtypes, and rounded once
        source = source.to(torch.promote_types(source.dtype, target.dtype)).mul_(factor)
    target.copy_(source)


def fan_in_factor(plan: Plan, child: Anatomy, name: str, scale_tied: bool = False) -> float:
    """sqrt(parent fan-in / child fan-in) of child tensor `name`; 1 if its layout has no arrow.

    scale_tied: with the factor of a tied tensor, where `name` takes it in that one's place.
    """
    keys = [child.family.key(axis, child.blocks[name]) for axis in child.layouts[name].fan_in]
    for tied, stand_ins in child.family.tied.items():
        if scale_tied and name in stand_ins and child.aliases.get(tied, tied) != tied:
            keys += [child.family.key(axis, None) for axis in child.family.rows[tied][1].fan_in]
    ratios = [plan.sizes[key][0] / plan.sizes[key][1] for key in keys]
    if any(map(plan.rotates, keys)):
        ratios.append(plan.energy)
    return prod(ratios) ** 0.5


def permute(parent: nn.Module, scores: Scores) -> nn.Module:
    """A copy of `parent` with heads, hidden units and residual stream sorted by falling importance; same outputs.

    Taking the `first` units of the copy is subcloning by `importance`: the paper's own description (Fig. 4).
    """
    p = Anatomy(parent)
    plan = make_plan(parent, parent, scores)
    for key in p.sizes:
        axis, _, block = key.partition(".")
        if axis in p.family.probes:
            ranking = scores.of(axis, int(block) if block else None)
            plan.maps[key] = ranking.argsort(descending=True, stable=True)
    return apply_plan(plan, parent, copy.deepcopy(parent))


def _check(plan: Plan, p: Anatomy, c: Anatomy) -> None:
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
            pair = (p.size(axis, None if block is None else plan.blocks[block]), c.size(axis, block))
            key = c.family.key(axis, block)
            planned = plan.sizes.get(key, pair)
            if pair != planned:
                raise SubcloningError(
                    f"{name}, axis {axis}: the plan takes {planned[0]} to {planned[1]}, these models are {pair[0]} and "
                    f"{pair[1]}: make a plan for them"
                )
            kept = plan.map(name, key, axis)
            wrong = kept is None or len(kept) != pair[1] or kept.shape[1:] not in ((), (pair[0],))
            if name not in plan.fresh and pair[0] != pair[1] and wrong:
                raise SubcloningError(
                    f"the plan has no map of {pair[1]} indices for {name}, axis {axis}: make it again"
                )
    for what, anatomy in (("parent", p), ("child", c)):
        if any(tensor.is_meta for tensor in anatomy.tensors.values()):
            raise SubcloningError(f"the {what} is on the meta device and has no values: build it on a real device")
    if {t.data_ptr() for t in p.tensors.values()} & {t.data_ptr() for t in c.tensors.values() if t.numel()}:
        raise SubcloningError("parent and child share memory: build the child as a model of its own")
    for name, tensor in p.tensors.items():
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise SubcloningError(f"the parent's {name} holds NaN or infinite values: its training may have diverged")
