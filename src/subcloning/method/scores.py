"""Scores: how important each neuron, head and hidden unit of a parent is, by its activations over some data.

Paper section 4.1: score_j = mean over batch and tokens of |y[batch, token, j]|. One ranking of the residual stream
serves the whole network, from the sum of the blocks' scores; heads and hidden units are ranked within their own block,
a head by the mean over its neurons.

What is kept are sums over positions and how many there were, so that the scores of parts of the data make up those of
all of it. `scoring` makes them.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import SubcloningError
from ..files import load_tensors, save_tensors

# Statistic -> (what is summed over positions, what is made of the means).
STATISTICS: dict[str, tuple[Callable[[Tensor], list[Tensor]], Callable[..., Tensor]]] = {
    "magnitude": (lambda x: [x.abs()], lambda mean: mean),
    "rms": (lambda x: [x.square()], torch.sqrt),
    # In float64, for a small difference of large numbers.
    "variance": (lambda x: [x.double().square(), x.double()], lambda square, mean: (square - mean**2).clamp(min=0)),
    "taylor": (lambda x: [x.abs()], lambda mean: mean),  # of x dL/dx
}
# Statistic -> what is made of the means, those of `score_weights` too.
FINISH = {name: finish for name, (_, finish) in STATISTICS.items()} | {"weights": torch.sqrt}
STREAM, INFLUENCE = "stream", "influence"


@dataclass(frozen=True)
class Scores:
    """How important every unit of a parent is: the paper's mean |activation|, or another `statistic` of it.

    sums: `residual.3`, `head.3`, `hidden.3` -> (terms, size, neurons of a unit), what the statistic sums over the
        positions at block 3. `influence.3` -> (1,), the sum of 1 - cosine between the block's input and its output.
        If asked for, `stream` -> (d, d), the products of the residual stream as its norms see it. All are float64.
    counts: the same keys -> how many were summed: positions, times the places where the axis is read; for `stream`
        samples, times norms, since each norm and each sample has one vote, however many its positions are.
    parent: fingerprint of the model that was scored.
    statistic, points: as for `score`.
    equal_votes: see `normalised`.
    """

    sums: dict[str, Tensor]
    counts: dict[str, int]
    parent: str
    statistic: str = "magnitude"
    points: dict[str, str] = field(default_factory=dict)
    equal_votes: bool = False

    def of(self, axis: str, block: int | None = None) -> Tensor:
        """(size,) float32 scores of `axis` in `block`, or their sum over all blocks where `block` is None.

        Raises SubcloningError, which names the axes that there are, where that one was not scored.
        """
        means, finish = self._means(axis), FINISH[self.statistic]
        if block is not None:
            means = {key: mean for key, mean in means.items() if key == f"{axis}.{block}"}
        if not means or axis == INFLUENCE:
            known = dict.fromkeys(axis for axis, _ in self.places)
            raise SubcloningError(
                f"no scores of {axis!r} in block {block}: there are {', '.join(known)} in "
                f"{len({block for _, block in self.places})} blocks. Score this parent"
            )
        units = [finish(*mean).mean(-1) for mean in means.values()]
        if self.equal_votes:
            units = [unit / (unit.sum() or 1) for unit in units]  # of a silent block all are zero, and stay so
        return reduce(add, units).float()

    @property
    def influence(self) -> Tensor:
        """(blocks,) float32: how much each block turns the residual stream (ShortGPT, arXiv 2403.03853).

        1 - cosine between its input and its output, averaged over positions. Empty where no data were scored.
        """
        return torch.cat([torch.empty(0), *self._means(INFLUENCE).values()]).float()

    @property
    def stream(self) -> Tensor | None:
        """(d, d) float32, or None if it was not asked for: the covariance of the residual stream as its norms see it.

        That is without its mean, at a mean square of one, before the gain; averaged over all norms.
        """
        return (self.sums[STREAM] / self.counts[STREAM]).float() if STREAM in self.sums else None

    @property
    def places(self) -> list[tuple[str, int]]:
        """(axis, block) of everything that was scored."""
        keys = [key.rpartition(".") for key in self.sums if key != STREAM]
        return [(axis, int(block)) for axis, _, block in keys if axis != INFLUENCE]

    @property
    def positions(self) -> int:
        """How many (sample, token) positions were scored; 0 of weights."""
        return self.counts.get(f"{INFLUENCE}.0", 0)

    def _means(self, axis: str) -> dict[str, Tensor]:
        return {key: self.sums[key] / self.counts[key] for key in self.sums if key.rpartition(".")[0] == axis}

    def save(self, path: str | os.PathLike) -> None:
        save_tensors(path, "scores", {key: value for key, value in vars(self).items() if key != "sums"}, self.sums)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Scores":
        """Raises SubcloningError where the file is damaged, or of another version."""
        hints = get_type_hints(cls)
        del hints["sums"]
        header, sums = load_tensors(path, "scores", hints)
        shapes = {STREAM: 2, **{key: 1 for key in sums if key.startswith(f"{INFLUENCE}.")}}
        if (
            header["counts"].keys() != sums.keys()
            or header["statistic"] not in FINISH
            or not all(count > 0 for count in header["counts"].values())
            or not all(key == STREAM or re.fullmatch(r"[a-z_]+\.\d+", key, re.ASCII) for key in sums)
            or not all(x.dtype == torch.float64 and x.ndim == shapes.get(key, 3) for key, x in sums.items())
        ):
            raise SubcloningError(f"{path} is not whole, or older than this version, which keeps sums: score again")
        return cls(sums, **header)

    def normalised(self) -> "Scores":
        """Each block's scores divided by their sum, so that every block has an equal vote on the residual stream."""
        return replace(self, equal_votes=True)

    @classmethod
    def merge(cls, parts: Iterable["Scores"]) -> "Scores":
        """The scores of all parts' data together; every part must have scored the same things of the same parent."""
        parts = list(parts)
        if not parts:
            raise SubcloningError("there are no scores to merge")
        for what in ("parent", "statistic", "points", "equal_votes"):
            if any(getattr(part, what) != getattr(parts[0], what) for part in parts):
                raise SubcloningError(f"can merge scores of one {what} only, got {[getattr(p, what) for p in parts]}")
        if any(part.sums.keys() != parts[0].sums.keys() for part in parts):
            raise SubcloningError("can merge scores of the same things only: score each part with the same options")
        sums = {key: reduce(add, (part.sums[key] for part in parts)) for key in parts[0].sums}
        counts = {key: sum(part.counts[key] for part in parts) for key in parts[0].counts}
        return replace(parts[0], sums=sums, counts=counts)

    def merge_ranks(self) -> "Scores":
        """Merge with what the other ranks of the default process group scored; every rank gets the same result."""
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self)
        return Scores.merge(parts)
