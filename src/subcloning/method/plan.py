"""What a child keeps of its parent: a map along each axis that shrinks, and the parent block of each child block.

A map is an index vector, int64 (child size,): the parent's coordinates that the child keeps, in the child's order; or a
matrix, float32 (child size, parent size), whose rows are directions that it keeps instead (see `principal`). Maps are
looked up from the particular to the general: `blocks.0.mlp.fc1.weight:residual` (one tensor), `hidden.0` (one child
block), `residual` (the whole network). An axis without a map is kept whole.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_type_hints

import torch
from torch import Tensor, nn

from ..errors import SubcloningError
from ..files import load_tensors, save_tensors
from .anatomy import Anatomy
from .matching import SCORED, check_counterparts, check_cut, check_rules, check_thin, rules_of
from .principal import rotation
from .scores import Scores

BLOCKS = ("middle", "first", "last", "uniform", "least")


@dataclass(frozen=True)
class Plan:
    """What is kept. `print(plan)` shows it as a table.

    family, select: of which kind of model, and by which rule.
    blocks: the parent block that each child block copies.
    maps: see this module's docstring.
    sizes: axis key -> (parent size, child size).
    fresh: child tensors that keep their own initial values, because an axis in `ignored` differs.
    ignored: the axes and settings that were allowed to differ.
    energy: the share of the residual stream's energy that a matrix along it keeps.
    parent: fingerprint of the parent that the plan was made for; a record, other weights of the same shape may be used.
    """

    family: str
    select: str
    blocks: list[int]
    sizes: dict[str, tuple[int, int]]
    fresh: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    energy: float = 1.0
    parent: str = ""
    maps: dict[str, Tensor] = field(default_factory=dict)

    def map(self, name: str, key: str, axis: str) -> Tensor | None:
        """The map along `axis` of child tensor `name`; `key` is the axis's key there (see `Family.key`)."""
        return self.maps.get(f"{name}:{axis}", self.maps.get(key))

    def maps_of(self, name: str, child: Anatomy) -> dict[str, Tensor | None]:
        """Axis -> the map along it, of child tensor `name`."""
        layout, block = child.layouts[name], child.blocks[name]
        return {axis: self.map(name, child.family.key(axis, block), axis) for axis in layout.axes}

    def rotates(self, key: str) -> bool:
        """Whether the axis of that key is mapped by a matrix."""
        return key in self.maps and self.maps[key].ndim == 2

    @property
    def rotated(self) -> bool:
        """Whether any axis is."""
        return any(map(self.rotates, self.maps))

    def kept(self, key: str, limit: int = 12) -> str:
        """What the map of that key keeps, in words or at most `limit` indices."""
        if self.rotates(key):
            return f"principal directions, {self.energy:.1%} of the energy"
        return _abridged(self.maps[key].tolist(), limit)

    def save(self, path: str | os.PathLike) -> None:
        header = {key: value for key, value in vars(self).items() if key != "maps"}
        save_tensors(path, "plan", header, self.maps)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Plan":
        """Raises SubcloningError where the file is damaged, or of another version."""
        hints = get_type_hints(cls) | {"sizes": dict[str, tuple[int | None, int | None]]}  # None: no such axis
        del hints["maps"]
        header, maps = load_tensors(path, "plan", hints)
        sizes = {key: tuple(pair) for key, pair in header.pop("sizes").items()}
        if (
            None in sizes.get("block", (None,))
            or not 0 < header["energy"] < 1.1
            or not all(size is None or size > 0 for pair in sizes.values() for size in pair)
            or not all((x.ndim, x.dtype) in ((1, torch.int64), (2, torch.float32)) for x in maps.values())
        ):
            raise SubcloningError(f"{path} is damaged, or of another version: make it again")
        return cls(**header, sizes=sizes, maps=maps)

    def __str__(self) -> str:
        rows = [("axis", "parent", "child", "kept"), ("block", *self.sizes["block"], _abridged(self.blocks))]
        for key, (parent, child) in self.sizes.items():
            axis, _, block = key.partition(".")
            if axis == "block" or block not in ("", "0"):
                continue  # one row stands for all blocks
            if parent == child:
                kept = "all"
            elif key in self.maps:
                kept = f"{self.kept(key)}{' in block 0' if block else ''}"
            else:
                drawn = any(name.endswith(f":{axis}") for name in self.maps)
                kept = "a new draw for each tensor" if drawn else "child's own initial values"
            rows.append((axis, parent, child, kept))
        lines = [f"{axis:<10}{parent or '-':>8}{child:>8}  {kept}" for axis, parent, child, kept in rows]
        if self.fresh:
            lines.append(f"not copied: {', '.join(self.fresh)}")
        return "\n".join([f"{self.family}, select={self.select}", *lines])


def make_plan(
    parent: nn.Module | Anatomy,
    child: nn.Module | Anatomy,
    scores: Scores | None = None,
    *,
    select: str | Mapping[str, str] = "importance",
    blocks: str | Sequence[int] = "middle",
    seed: int = 0,
    ignore_mismatched: Collection[str] = (),
    thin_heads: bool = False,
) -> Plan:
    """Decide what `child`, any model of the wanted shape (the meta device will do), keeps of `parent`.

    select: which units along each axis that shrinks (residual stream, heads and hidden units):
        `importance` the highest scores (paper 4.1), `least` the lowest; both need `scores`
        `first`      the leading ones as they come (the paper's non-reordered ablation, Fig. 14)
        `uniform`    evenly spaced ones (weight selection, arXiv 2311.18823)
        `random`     a random subset, the same wherever the axis occurs, by `seed`
        `inconsistent` a random subset anew for each tensor, by `seed`: a control that breaks the wiring
        `principal`  the residual stream's principal directions, and of heads and hidden units the most important;
                     needs `scores` with the stream's covariance (see `principal`)
        or one of these for each axis that shrinks, as in {"residual": "uniform", "head": "first", "hidden": "first"}.
    blocks: the parent block that each child block copies, or which ones a shallower child loses: a run in the `middle`
        (paper 4.2), the `first` ones, the `last` ones, `uniform` (evenly spaced) ones, or the `least`
        influential, which needs `scores`.
        A deeper child repeats the middle blocks.
    ignore_mismatched: axes, such as `label` or `vocab`, that may differ or be missing in the parent; tensors for which
        that is so keep the child's own initial values. And settings that may differ (`Family.settings`).
    thin_heads: a child's heads may be smaller by a whole factor k, where the family knows how: of each head's positions
        every k-th stays. Rotary pairs stay whole, and the child turns them as fast as the parent did, since its own
        frequencies are every k-th of the parent's.

    Raises SubcloningError where the two shapes cannot be reconciled, naming the parameter, the axis and both sizes;
    and where the two use their tensors otherwise, as with another activation function, pooling or rotary base.
    """
    p, c = Anatomy.of(parent), Anatomy.of(child)
    ignored = {ignore_mismatched} if isinstance(ignore_mismatched, str) else set(ignore_mismatched)
    rules = {axis: select if isinstance(select, str) else select.get(axis, "") for axis in p.family.probes}
    check_rules(p, c, scores, rules_of(rules), ignored)
    blocks = (
        _kept_blocks(blocks, p.depth, c.depth, scores) if isinstance(blocks, str) else [int(block) for block in blocks]
    )
    if len(blocks) != c.depth or not all(0 <= b < p.depth for b in blocks):
        raise SubcloningError(f"blocks {blocks}: expected {c.depth} parent blocks, each from 0 to {p.depth - 1}")

    def pairs(name):
        """axis -> (parent size, child size) of a child tensor."""
        block = c.blocks[name]
        source_block = None if block is None else blocks[block]
        axes = [axis for axis in c.layouts[name].axes if not axis.isdigit()]
        return {axis: (p.size(axis, source_block), c.size(axis, block)) for axis in axes}

    fresh = [name for name in c.tensors if any(old != new for a, (old, new) in pairs(name).items() if a in ignored)]
    check_counterparts(p, c, blocks, fresh, ignored)
    generator = torch.Generator().manual_seed(seed)
    sizes, maps, energy = {"block": (p.depth, c.depth)}, {}, 1.0
    for name in c.tensors:
        block = c.blocks[name]
        sizes |= {p.family.key(axis, block): pair for axis, pair in pairs(name).items()}
        if name in fresh:
            continue
        for axis, (old, new) in pairs(name).items():
            if old == new:
                continue
            key = p.family.key(axis, block)
            if axis == "dim":
                check_thin(p, name, old, new, thin_heads)
                maps[key] = torch.arange(0, old, old // new)
                continue
            check_cut(p, name, axis, old, new)
            if rules[axis] == "inconsistent":
                maps[f"{name}:{axis}"] = _indices("random", old, new, None, generator)
            elif rules[axis] == "principal" and axis in p.family.shared:
                if key not in maps:
                    stream = scores.stream if scores else None
                    assert stream is not None  # see check_rules
                    rotated, energy = rotation(p, c, stream)
                    maps |= rotated
            elif key not in maps:
                within = None if block is None or axis in p.family.shared else blocks[block]
                ranking = None if scores is None else scores.of(axis, within)
                if ranking is not None and len(ranking) != old:
                    raise SubcloningError(
                        f"the scores are of another parent: {len(ranking)} for {key}, which has {old}"
                    )
                maps[key] = _indices(rules[axis], old, new, ranking, generator)
    rule = select if isinstance(select, str) else " ".join(f"{axis}={rule}" for axis, rule in rules.items())
    return Plan(p.family.name, rule, blocks, sizes, fresh, sorted(ignored), energy, p.fingerprint, maps)


def middle(size: int, count: int) -> range:
    """The `count` middle ones of `size` blocks; what is left over is one longer on the early side."""
    start = (size - count + 1) // 2
    return range(start, start + count)


def _kept_blocks(lost: str, parent: int, child: int, scores: Scores | None = None) -> list[int]:
    if lost not in BLOCKS:
        raise SubcloningError(f"blocks={lost!r}: expected one of {', '.join(BLOCKS)}, or the blocks to keep")
    if child > parent:
        times, rest = divmod(child, parent)
        return [block for block in range(parent) for _ in range(times + (block in middle(parent, rest)))]
    if lost == "uniform":  # first and last block stay
        return torch.linspace(0, parent - 1, child, dtype=torch.float64).round().long().tolist()
    more = parent - child
    removed: Collection[int]
    if lost == "least":
        if scores is None or len(scores.influence) != parent:
            raise SubcloningError("blocks='least' needs scores with the blocks' influence: score(parent, batches)")
        removed = scores.influence.argsort(stable=True)[:more].tolist()
    else:
        removed = {"middle": middle(parent, more), "first": range(more), "last": range(child, parent)}[lost]
    return [block for block in range(parent) if block not in removed]


def _indices(select: str, old: int, new: int, scores: Tensor | None, generator: torch.Generator) -> Tensor:
    """(new,) distinct indices below `old`; those chosen by score come in the order of their rank."""
    if select in SCORED:
        assert scores is not None  # see check_rules
        return scores.argsort(descending=select != "least", stable=True)[:new].clone()
    if select == "uniform" and old % new:
        return torch.linspace(0, old - 1, new, dtype=torch.float64).round().long()
    if select == "uniform":
        return torch.arange(0, old, old // new)
    if select == "random":
        return torch.randperm(old, generator=generator)[:new].sort().values
    return torch.arange(new)


def _abridged(numbers: Sequence[int], limit: int = 12) -> str:
    shown = " ".join(map(str, numbers[:limit]))
    return shown if len(numbers) <= limit else f"{shown} ... {numbers[-1]}"
