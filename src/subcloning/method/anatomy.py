"""A model seen through its family's table: which tensors it has, how they are shared, and how long each axis is."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from ..errors import SubcloningError
from .axes import Layout, family_of


class Anatomy:
    """A model seen through its family's table. Reads only names and shapes, so the meta device will do.

    model: the model itself.
    values: name -> values of a model on the meta device, which `anatomy[name]` then reads there (see `shards`).
    tensors: every parameter and persistent buffer once; a tied tensor goes by the name of what it is tied to.
    aliases: every name, tied ones included, to the name in `tensors`.
    rows, layouts, blocks: each tensor's row of the table, its axes, and its block number (or None).
    sizes: axis key (see `Family.key`) -> size.
    """

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor] | None = None):
        self.model, self.family = model, family_of(model)
        self.tensors: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        self.rows: dict[str, str] = {}
        self.layouts: dict[str, Layout] = {}
        self.blocks: dict[str, int | None] = {}
        self.sizes: dict[str, int] = {}
        if why := self.family.unsupported(model):
            raise SubcloningError(f"this variant of {self.family.name} is not supported: {why}")
        found = model.state_dict(keep_vars=True)
        shared: dict[object, list[str]] = {}
        for name, tensor in found.items():
            _check_kind(name, tensor)
            shared.setdefault(_identity(tensor), []).append(name)
        for names in shared.values():
            owners = [name for name in names if name not in self.family.tied] or names[:1]
            if len(owners) > 1:
                raise SubcloningError(
                    f"{' and '.join(owners)} are one tensor, which no {self.family.name} has: give each its own, or "
                    "declare it in Family.tied"
                )
            self.aliases |= dict.fromkeys(names, owners[0])
        for name, tensor in found.items():
            if self.aliases[name] == name:
                self.tensors[name] = tensor
                self.rows[name], self.blocks[name], self.layouts[name] = self.row_of(name)
        self.depth = 1 + max((b for b in self.blocks.values() if b is not None), default=-1)
        if not self.depth:
            raise SubcloningError(f"this {self.family.name} has no blocks")
        self.inner = self.family.inner_sizes(model)
        for name, tensor in self.tensors.items():
            self._solve_sizes(name, tensor)
        self.values = self.tensors if values is None else values

    @classmethod
    def of(cls, model: "nn.Module | Anatomy") -> "Anatomy":
        """The anatomy of `model`, which may be one already: built once, it is handed on."""
        return model if isinstance(model, Anatomy) else cls(model)

    def row_of(self, name: str) -> tuple[str, int | None, Layout]:
        """The row of the table that tensor `name` is in, its block and its axes; `name` may be a tied one."""
        found = [(row, m, layout) for row, (p, layout) in self.family.rows.items() if (m := p.fullmatch(name))]
        if len(found) != 1:
            raise SubcloningError(
                f"{name} has {len(found) or 'no'} rows in the {self.family.name} table, expected one. This variant of "
                "the model is not supported yet: add its axes to the family's table."
            )
        row, match, layout = found[0]
        return row, int(match["block"]) if match.groupdict() else None, layout

    def _solve_sizes(self, name: str, tensor: Tensor) -> None:
        """Solve the tensor's shape for its axis sizes, and hold them against what is known."""
        layout, block = self.layouts[name], self.blocks[name]
        if len(layout.dims) != tensor.ndim:
            raise SubcloningError(f"{name} has shape {tuple(tensor.shape)}, but its axes are {layout.text!r}")
        for dim, size in zip(layout.dims, tensor.shape, strict=True):
            known = {axis: self.size(axis, block) for axis in dim}
            unknown = [axis for axis in dim if known[axis] is None]
            rest = prod(n for n in known.values() if n is not None)
            if len(unknown) > 1 or size % rest or (not unknown and size != rest):
                raise SubcloningError(
                    f"{name} {tuple(tensor.shape)}: a dimension of size {size} cannot be ({' '.join(dim)}) "
                    f"where {known}"
                )
            for axis in unknown:
                self.sizes[self.family.key(axis, block)] = size // rest

    def size(self, axis: str, block: int | None) -> int | None:
        """Size of `axis` in `block` (None outside the blocks); None if the model has no such axis."""
        if axis.isdigit():
            return int(axis)
        return self.inner.get(axis) or self.sizes.get(self.family.key(axis, block))

    def __getitem__(self, name: str) -> Tensor:
        """The values of any name, tied ones included."""
        return self.values[self.aliases[name]]

    @cached_property
    def norms(self) -> dict[str, tuple[str, ...]]:
        """Each norm of the residual stream -> the linear layers that read its output.

        None reads the last norm of a model without a head. Raises SubcloningError where the stream cannot be rotated.
        """
        what = f"the residual stream of this {self.family.name} cannot be rotated"
        if why := self.family.unrotatable(self.model):
            raise SubcloningError(f"{what}: {why}. Use select='importance'")
        found = {}
        for row, readers in self.family.norms.items():
            for block in range(self.depth) if "{block}" in row else [None]:
                norm = row.format(block=block)
                if f"{norm}.weight" in self.tensors:
                    layers = [reader.format(block=block) for reader in readers]
                    found[norm] = tuple(layer for layer in layers if f"{layer}.weight" in self.aliases)
        last = () if self.has_head else [norm for norm in found if self.blocks[f"{norm}.weight"] is None]
        lost = [norm for norm, readers in found.items() if not readers and norm not in last]
        if lost or not found:
            raise SubcloningError(
                f"{what}: no linear layer is known into which the gain of {[*lost, 'its norms'][0]} folds "
                "(Family.norms). Use select='importance'"
            )
        return found

    @property
    def rotates(self) -> bool:
        """Whether the residual stream can be rotated, as `norms` finds out."""
        try:
            return bool(self.norms)
        except SubcloningError:
            return False

    @property
    def has_head(self) -> bool:
        """Whether a layer outside the blocks reads the residual stream; without one it is what the model puts out."""
        outside = (self.layouts[name] for name, block in self.blocks.items() if block is None)
        return bool(self.tied) or any(
            "residual" in layout.fan_in and "residual" not in layout.outputs.axes for layout in outside
        )  # a pooler maps the stream to itself

    @property
    def tied(self) -> set[str]:
        """The names in `Family.tied` that share another tensor's values."""
        return {name for name in self.family.tied if self.aliases.get(name, name) != name}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names, shapes and up to 64 values of each tensor; empty on the meta device. See `same_parent`.

        Values are rounded to bfloat16 first, so that a model has one fingerprint in float32, float64 and bfloat16; and
        once more by way of float16, after a stroke.
        """
        direct, by_half = hashlib.sha256(), hashlib.sha256()
        for name in self.tensors:
            if (tensor := self[name]).is_meta:
                return ""
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64]
            for digest, values in ((direct, sample), (by_half, sample.half())):
                rounded = values.to(torch.bfloat16).float().cpu()
                digest.update(f"{name}{tuple(tensor.shape)}{rounded.tolist()}".encode())
        return f"{direct.hexdigest()[:16]}/{by_half.hexdigest()[:16]}"


def same_parent(one: str, other: str) -> bool:
    """Whether two fingerprints can be of one model, each in a dtype of its own."""
    return bool(set(one.split("/")) & set(other.split("/")))


def _check_kind(name: str, tensor: Tensor) -> None:
    """Raise unless it is an ordinary tensor of numbers in half precision or better."""
    if type(tensor) not in (Tensor, nn.Parameter):
        raise SubcloningError(
            f"{name} is a {type(tensor).__name__}, expected a whole tensor on one device: gather a sharded model "
            "(FSDP2, DTensor) or dequantise it first, for instance load its full state dict into a plain model"
        )
    if tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise SubcloningError(
            f"{name} has dtype {tensor.dtype}, expected float16, bfloat16, float32 or float64: load the "
            "model unquantised"
        )


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that share their values."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape
