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
selects. Each reader is scaled by sqrt(d / d'), which is exact here, and by the root of the share of the stream's energy
that V keeps, since the child's norms stretch what is left of the stream to full length.
"""

import copy

import torch
from torch import Tensor, nn

from .axes import Anatomy, Family, SubcloningError


def norms_of(anatomy: Anatomy) -> dict[str, tuple[str, ...]]:
    """Each norm of the residual stream -> the linear layers that read its output.

    Raises SubcloningError where a norm has no such layer, so that the stream cannot be rotated.
    """
    found = {}
    for row, readers in anatomy.family.norms.items():
        for block in range(anatomy.depth) if "{block}" in row else [None]:
            norm = row.format(block=block)
            if f"{norm}.weight" in anatomy.tensors:
                layers = [reader.format(block=block) for reader in readers]
                found[norm] = tuple(layer for layer in layers if f"{layer}.weight" in anatomy.aliases)
    lost = [norm for norm, readers in found.items() if not readers] or ([] if found else ["its norms"])
    if lost:
        raise SubcloningError(
            f"the residual stream of this {anatomy.family.name} cannot be rotated: no linear layer is known into which "
            f"the gain of {lost[0]} folds (Family.norms). Use select='importance'"
        )
    return found


def neuronwise(family: Family) -> set[str]:
    """The rows of the family's table that are gains on single neurons of the stream."""
    return {*(f"{norm}.weight" for norm in family.norms), *family.gains}


def is_centred(anatomy: Anatomy) -> bool:
    """Whether the model's norms subtract the stream's mean."""
    return any(isinstance(anatomy.model.get_submodule(norm), nn.LayerNorm) for norm in norms_of(anatomy))


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


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """A copy of `model` with the same outputs, in which no gain acts on single neurons of the residual stream.

    A head that is tied to the embedding cannot take its norm's gain, which is replaced by its mean there: an
    approximation, as good as that gain is even.
    """
    model = copy.deepcopy(model)
    model.to(torch.promote_types(next(model.parameters()).dtype, torch.float32))  # to be rounded once, in the child
    anatomy = Anatomy(model)
    tensors = {name: anatomy.tensors[first] for name, first in anatomy.aliases.items()}

    def along_residual(name: str) -> int:
        """The dimension of tensor `name` that is the stream's."""
        (dim,) = (i for i, axes in enumerate(anatomy.layouts[anatomy.aliases[name]].dims) if axes == ("residual",))
        return dim

    for norm, readers in norms_of(anatomy).items():
        gain, bias = tensors[f"{norm}.weight"], tensors.get(f"{norm}.bias")
        if any(anatomy.aliases[name] != name for name in (f"{reader}.weight" for reader in readers)):
            gain.fill_(gain.mean())
            continue
        takes_bias = all(f"{reader}.bias" in tensors for reader in readers)
        for reader in readers:
            weight = tensors[f"{reader}.weight"].movedim(along_residual(f"{reader}.weight"), -1)
            if bias is not None and takes_bias:
                tensors[f"{reader}.bias"] += weight @ bias
            weight *= gain
        if bias is not None:
            bias.copy_(torch.zeros_like(bias) if takes_bias else torch.where(gain != 0, bias / gain, 0))
        gain.fill_(1)
    for row, writer in anatomy.family.gains.items():
        for block in range(anatomy.depth):
            if (name := row.format(block=block)) in tensors:
                for part in (p for p in ("weight", "bias") if f"{writer}.{p}".format(block=block) in tensors):
                    written = f"{writer}.{part}".format(block=block)
                    tensors[written].movedim(along_residual(written), -1).mul_(tensors[name])
                tensors[name].fill_(1)
    return model
