"""Principal subcloning: the child keeps principal directions of its parent's residual stream, not some neurons of it.

A rotation of the residual stream leaves a model's outputs as they are if all layers that write to the stream and all
that read it are rotated with it, and if nothing between them looks at single neurons. Two things do. The norms' gains
are first folded into the layers that read them. LayerNorm's mean is kept by the rotation:

    V = Q U' + 1 1' / sqrt(d d')        (child size d', parent size d), orthonormal rows

U (d, d' - 1) are the leading eigenvectors of the normalised stream's covariance, all orthogonal to the ones vector 1
since LayerNorm takes the mean away; Q (d', d' - 1) is an orthonormal basis of what is orthogonal to 1 in the child's
stream. So V maps mean to mean, and the child's norms centre as the parent's do. Where all norms are RMSNorm, V is U' of
d' eigenvectors.

The covariance is `Scores.stream`, V a plan's map of `residual`: `surgery` multiplies by it, where it otherwise
selects. Within what V keeps, a rotation is free. It is chosen for a head that is tied to the embedding, which cannot
take over the gain g of the norm before it: where g is so uneven that it matters, V diag(g) V' becomes diagonal, and its
diagonal the child's gain (`turned_to`).

Each layer that reads a norm is scaled by sqrt(d / d'), which is exact here, and by the root of the share of
the stream's energy that V keeps, since the child's norms stretch what is left of the stream to full length.
"""

import copy
from collections.abc import Collection
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..errors import SubcloningError
from .anatomy import Anatomy
from .axes import Family

LOST = 0.1  # of what a gain before a tied head puts out, that principal axes may cost
TURNS = 5  # of fitting a gain and a rotation to each other: more make no difference


def neuronwise(family: Family) -> set[str]:
    """The rows of the family's table that are gains on single neurons of the stream."""
    return {*(f"{norm}.weight" for norm in family.norms), *family.gains}


def is_centred(anatomy: Anatomy) -> bool:
    """Whether any of the model's norms subtracts the stream's mean: told by calling them, whatever their class."""

    def ignores_mean(name: str) -> bool:
        norm: Any = anatomy.model.get_submodule(name)
        if anatomy[f"{name}.weight"].is_meta and not hasattr(norm, "_hf_hook"):  # by which accelerate offloads
            raise SubcloningError("the parent is on the meta device and has no values: build it on a real device")
        if norm.weight.is_meta:  # its values are elsewhere: what it does with a gain of one
            norm = copy.deepcopy(norm).to_empty(device="cpu")
            for values, constant in (norm.weight, 1.0), (getattr(norm, "bias", None), 0.0):
                if values is not None:
                    values.fill_(constant)
        weight = norm.weight.detach()
        x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        moved, size = (norm(x + 1) - norm(x)).norm(), (norm(x) - norm(-x)).norm()
        return bool(moved < 0.1 * size)

    with torch.no_grad():
        return any(map(ignores_mean, anatomy.norms))


def principal_map(stream: Tensor, size: int, keep_mean: bool) -> tuple[Tensor, float]:
    """V, float32 (size, d), for the covariance `stream` (d, d), and the share of the stream's energy that it keeps.

    keep_mean: whether the mean direction is kept as such, as LayerNorm needs.
    """
    stream = stream.double()
    mean, small = (torch.full((n, 1), n**-0.5, dtype=stream.dtype) for n in (len(stream), size))  # of length one
    if keep_mean:
        centre = torch.eye(len(stream), dtype=stream.dtype) - mean @ mean.T
        stream = centre @ stream @ centre
    total, count = stream.trace(), size - keep_mean
    # The mean direction has the eigenvalue 0 now, and perhaps not alone: lowered, it surely comes last.
    values, vectors = torch.linalg.eigh(stream - total * mean @ mean.T if keep_mean else stream)
    rows, energy = vectors.flip(1)[:, :count].T, values.flip(0)[:count].sum() / total
    if keep_mean:
        basis = torch.linalg.qr(torch.cat([small, torch.eye(size, dtype=stream.dtype)[:, 1:]], dim=1)).Q[:, 1:]
        rows = basis @ rows + small @ mean.T
    return rows.float().contiguous(), float(energy)


def turned_to(gain: Tensor, rows: Tensor, stream: Tensor, keep_mean: bool, lost: float = LOST) -> tuple[Tensor, Tensor]:
    """`rows` of `principal_map`, turned if need be so that `gain` (d,) scales them one by one; and A (size, d), of
    which A @ gain is the child's gain.

    stream: as there. lost: how much of what the gain puts out may be lost (root mean square, relative) for the rows to
    stay principal axes, which train better (experiments/principal); more than that, and they are turned.

    Without a mean to keep this is exact: rows V with V diag(gain) V' = diag(A @ gain), whose eigenvalues these are. The
    mean direction must stay where it is, and then the matrix on the others, of eigenvalues v, is to be as near as can
    be to P diag(w) P, with P the projection that takes the mean away. The nearest has its eigenvectors, so all that is
    left to choose is w, whose P diag(w) P has eigenvalues between neighbours of w: they begin in the midst of those of
    v, and then w and the rotation are fitted to each other in turns, each to the other's least squares.
    """
    gain, stream = gain.double(), stream.double()
    size, one = len(rows), torch.full((len(rows), 1), len(rows) ** -0.5, dtype=torch.float64)
    mean = torch.full((1, len(gain)), len(gain) ** -0.5, dtype=torch.float64)
    whole = torch.eye(size, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([one, whole[:, 1:]], dim=1)).Q[:, 1:] if keep_mean else whole
    inverse = torch.linalg.pinv((basis @ basis.T).square())
    kept = basis.T @ rows.double()  # without the mean
    wanted, seen = kept * gain @ kept.T, kept @ stream @ kept.T
    directions = basis @ kept
    weights = inverse @ directions.square()
    missed = wanted - basis.T * (weights @ gain) @ basis
    if (missed @ seen * missed).sum() > lost**2 * (wanted @ seen * wanted).sum():
        values, turn = torch.linalg.eigh(wanted)
        child = (torch.cat([values[:1], values]) + torch.cat([values, values[-1:]])) / 2 if keep_mean else values
        for _ in range(TURNS if keep_mean else 1):
            nearest = torch.linalg.eigh(basis.T * child @ basis).eigenvectors
            directions = basis @ nearest @ turn.T @ kept
            weights = inverse @ directions.square()
            child = weights @ gain
    return (directions + one @ mean if keep_mean else directions).float().contiguous(), weights.float().contiguous()


def rotation(parent: Anatomy, child: Anatomy, stream: Tensor, lost: float = LOST) -> tuple[dict[str, Tensor], float]:
    """The maps along `residual` from `parent` to `child`, as a plan has them, and the share of the energy they keep."""
    new = child.sizes["residual"]
    keep_mean = is_centred(parent)
    rows, energy = principal_map(stream, new, keep_mean)
    # Of one value, once folded: any will do.
    gains = [name for name, row in child.rows.items() if row in neuronwise(child.family)]
    maps = {f"{name}:residual": torch.arange(new) for name in gains}
    for norm in Folded(parent, child.tied).unfolded:
        gain = parent[f"{norm}.weight"].detach().cpu()
        rows, maps[f"{norm}.weight:residual"] = turned_to(gain, rows, stream, keep_mean, lost)
    return maps | {"residual": rows}, energy


class Folded:
    """The tensors of a model with `parent`'s outputs in which no gain acts on single neurons of the residual stream.

    One at a time, so that no second parent is held; in float32 or better, to be rounded once, in the child.

    tied: names of heads that are tied to the embedding where the tensors go. These cannot take their norm's gain: such
        a norm is `unfolded`, as is one that no layer reads (of a model without a head), and its gain stays.
    """

    def __init__(self, parent: Anatomy, tied: Collection[str] = ()):
        self.parent = parent
        self.norms = parent.norms
        self.unfolded = {
            norm
            for norm, readers in self.norms.items()
            if not readers or {f"{reader}.weight" for reader in readers} & {*tied}
        }
        self.norm_of = {reader: norm for norm in self.norms if norm not in self.unfolded for reader in self.norms[norm]}
        blocks = range(parent.depth)
        gains = {
            writer.format(block=b): row.format(block=b)
            for row, writers in parent.family.gains.items()
            for writer, b in product(writers, blocks)
        }
        self.gain_of = {writer: gain for writer, gain in gains.items() if gain in parent.tensors}

    def has_bias(self, layer: str) -> bool:
        return f"{layer}.bias" in self.parent.aliases

    def loses_bias(self, norm: str) -> bool:
        """Whether the norm has a bias that some layer which reads it has no bias to take."""
        return norm not in self.unfolded and self.has_bias(norm) and not all(map(self.has_bias, self.norms[norm]))

    def raw(self, name: str) -> Tensor:
        tensor = self.parent[name].detach()
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; a new one, or the parent's own where folding does not change it."""
        layer, _, kind = name.rpartition(".")
        tensor = self.raw(name)
        if name in self.gain_of.values():
            return torch.ones_like(tensor)
        if layer in self.gain_of:
            return self._along_residual(name, tensor, self.raw(self.gain_of[layer]))
        if layer in self.norms and layer not in self.unfolded:
            return torch.ones_like(tensor) if kind == "weight" else torch.zeros_like(tensor)
        if layer in self.norm_of and kind == "weight":
            return self._along_residual(name, tensor, self._gain(self.norm_of[layer]))
        if layer in self.norm_of and self.has_bias(norm := self.norm_of[layer]) and not self.loses_bias(norm):
            return tensor + self.constant(layer)
        return tensor

    def constant(self, reader: str) -> Tensor:
        """(outputs,): what the bias of the norm before it adds to what the layer `reader` puts out."""
        weight, bias = self.raw(f"{reader}.weight"), self.raw(f"{self.norm_of[reader]}.bias")
        dim, bias = self._spread(f"{reader}.weight", bias)
        return weight.movedim(dim, -1) @ bias

    def _gain(self, norm: str) -> Tensor:
        gain = self.raw(f"{norm}.weight")
        if not self.loses_bias(norm):
            return gain
        # Its bias is to be made from the folded columns, which must not vanish.
        least = 0.01 * gain.square().mean().sqrt()
        return torch.where(gain.abs() < least, torch.where(gain < 0, -least, least), gain)

    def _spread(self, name: str, values: Tensor) -> tuple[int, Tensor]:
        """The dimension of tensor `name` that the residual stream is part of, and the stream's `values` along it."""
        _, block, layout = self.parent.row_of(name)
        (dim,) = (i for i, axes in enumerate(layout.dims) if "residual" in axes)
        axes = layout.dims[dim]
        sizes = [self.parent.size(axis, block) or 1 for axis in axes]
        shape = [size if axis == "residual" else 1 for axis, size in zip(axes, sizes, strict=True)]
        return dim, values.view(shape).expand(sizes).reshape(-1)

    def _along_residual(self, name: str, tensor: Tensor, gain: Tensor) -> Tensor:
        dim, gain = self._spread(name, gain)
        return (tensor.movedim(dim, -1) * gain).movedim(-1, dim)
