"""Named axes: a model family is a table from parameter names to the axes of each tensor.

The notation is that of einops, with an arrow from fan-in to fan-out:

    "pos_embed":                      "1 token residual"
    "blocks.{block}.attn.qkv.weight": "(qkv head dim) <- residual"
    "blocks.{block}.mlp.fc1.bias":    "hidden"

Parentheses join axes that share one dimension. An arrow marks the axes that the layer sums over (its fan-in): those are
the tensors that scaling applies to. `{block}` stands for a block's number. An axis that also occurs outside the blocks
(`residual`) is shared by the whole network; one that occurs only inside them (`head`, `hidden`) is each block's own.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn

from ..errors import SubcloningError


@dataclass(frozen=True)
class Layout:
    """The axes of one tensor, parsed from its notation.

    `dims` has one tuple of axis names per tensor dimension; `fan_in` names the axes that the layer sums over.
    """

    text: str
    dims: tuple[tuple[str, ...], ...]
    fan_in: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Layout":
        sides = re.split("<-|->", text)
        if len(sides) > 2 or not all(re.fullmatch(r"(\s*(\w+|\(\s*\w+(\s+\w+)*\s*\)))+\s*", side) for side in sides):
            raise SubcloningError(f"axes {text!r}: expected names and (groups of names), with at most one <- or ->")
        if numbers := [axis for axis in re.findall(r"\w+", text) if axis.isdigit() and axis != "1"]:
            raise SubcloningError(
                f"axes {text!r}: the only number that may stand for an axis is 1, name the {numbers[0]}"
            )
        dims = [tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\w+", text)]
        fan_in = "" if len(sides) == 1 else sides[1] if "<-" in text else sides[0]
        return cls(text, tuple(dims), tuple(axis for axis in re.findall(r"\w+", fan_in) if axis != "1"))

    @cached_property
    def einops(self) -> tuple[str, tuple[str, ...]]:
        """The layout as one side of an einops expression, and its names for `axes`, each by its position: an axis may
        occur twice, as in "residual <- residual"."""
        names = tuple("1" if axis == "1" else f"{axis}{i}" for i, axis in enumerate(self.axes))
        rest = iter(names)
        return " ".join(f"({' '.join(next(rest) for _ in dim)})" for dim in self.dims), names

    @property
    def outputs(self) -> "Layout":
        """The side of the arrow that is not fan-in."""
        sides = re.split("<-|->", self.text)
        return Layout.parse(sides[0] if "<-" in self.text else sides[-1])

    def dim_of(self, axis: str) -> int:
        """The number of the dimension that the layer sums over, and that `axis` is part of."""
        (dim,) = (i for i, axes in enumerate(self.dims) if axis in axes and set(axes) <= {*self.fan_in})
        return dim

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(axis for dim in self.dims for axis in dim)


@dataclass(frozen=True)
class Probe:
    """Where an axis is scored: the `input` or `output` of a module, whose last dimension has the given `axes`."""

    module: str
    side: Literal["input", "output"]
    axes: str

    def is_in(self, model: nn.Module) -> bool:
        try:
            model.get_submodule(self.module.format(block=0))
        except AttributeError:
            return False
        return True


def _not_said(parent: nn.Module, **shape: float) -> dict:
    raise SubcloningError(f"no shape of a child of {type(parent).__name__} is known: give its Family `resized`")


@dataclass(frozen=True)
class Family:
    """One kind of transformer, described completely by tables (see `families/`).

    model_class: full dotted name of the class, so that describing a library does not import it.
    table: parameter name -> axes, in the notation above.
    probes: axis -> where its activations are read, or several places of which a model has one. These axes can be cut;
        all others are kept whole.
    points: axis -> other places to read it at, by name; several probes of one block are averaged.
    inner_sizes: model -> sizes that tensor shapes alone do not tell, such as `dim` (the head dimension).
    scoring_kwargs: extra arguments of the forward pass while scoring.
    tied: tensor that may share another's values -> tensors that can take its scaling instead, since a factor on the
        shared values would reach the other use too. For a head tied to the embedding: those of the norm before it.
        Tensors that are shared in any other way are refused.
    norms: each norm of the residual stream -> the linear layers that read its output, into which its gain folds. With
        `gains`, what a rotation of the stream needs (see `principal`); without them only selection is offered.
    gains: per-neuron gain on a layer that writes to the stream (LayerScale) -> that layer, or those of which a model
        has one.
    settings: what decides how the tensors are used and no tensor shows, such as the activation function: attributes of
        a model, by dotted names, in which parent and child must not differ.
    unsupported, unrotatable: model -> why this variant, whose tensors may have the same names, computes something else
        than the tables say, or looks at single neurons of the stream where no gain is; "" where it does not.
    resized: parent (the meta device will do), and a shape as in `heads_and_blocks` -> what the library needs to be told
        for a child, as arguments of its config or constructor. For `subcloning.train`, which makes the child itself.
    rotary: model -> how many of a head's positions, its first ones, are turned in pairs a half of them apart (as
        transformers' `rotate_half` does); 0 for none. Without it a child's heads cannot be smaller.
    """

    name: str
    model_class: str
    table: Mapping[str, str]
    probes: Mapping[str, Probe | tuple[Probe, ...]]
    inner_sizes: Callable[[Any], dict[str, int]]
    points: Mapping[str, Mapping[str, tuple[Probe, ...]]] = field(default_factory=dict)
    scoring_kwargs: Mapping[str, object] = field(default_factory=dict)
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    unsupported: Callable[[nn.Module], str] = lambda model: ""
    unrotatable: Callable[[nn.Module], str] = lambda model: ""
    resized: Callable[..., dict] = _not_said
    rotary: Callable[[Any], int] | None = None

    @cached_property
    def rows(self) -> dict[str, tuple[re.Pattern, Layout]]:
        def pattern(name):
            return re.compile(re.escape(name).replace(r"\{block\}", r"(?P<block>\d+)"))

        return {name: (pattern(name), Layout.parse(axes)) for name, axes in self.table.items()}

    @cached_property
    def shared(self) -> frozenset[str]:
        """Axes that have one meaning in the whole network, not one per block."""
        return frozenset(a for name, (_, layout) in self.rows.items() if "{block}" not in name for a in layout.axes)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of a model of this family, in order."""
        lists = sorted({row.partition(".{block}")[0] for row in self.table if "{block}" in row})
        return [block for name in lists for block in model.get_submodule(name).children()]

    def probe(self, axis: str, model: nn.Module) -> Probe:
        """Where `axis` is read in a model of this family: the first of its places that there is, or else the first."""
        places = self.probes[axis]
        if isinstance(places, Probe):
            return places
        return next((probe for probe in places if probe.is_in(model)), places[0])

    def key(self, axis: str, block: int | None) -> str:
        """The name under which sizes, scores and maps are kept: `residual`, but `head.3`."""
        return axis if axis in self.shared or block is None else f"{axis}.{block}"


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make `family` known, so that models of its class (and subclasses) can be subcloned."""
    FAMILIES[family.model_class] = family
    return family


def family_of(model: nn.Module) -> Family:
    for cls in type(model).__mro__:
        if family := FAMILIES.get(f"{cls.__module__}.{cls.__qualname__}"):
            return family
    raise SubcloningError(
        f"no model family for {type(model).__name__}; known classes: {', '.join(sorted(FAMILIES))}. "
        "Pass the plain model, not a DDP, compiled or Lightning wrapper, or register() a Family for it."
    )
