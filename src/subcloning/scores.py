"""How important is each neuron, head and hidden unit of a parent? Mean |activation| over some of its data.

Paper section 4.1: score_j = mean over batch and tokens of |y[batch, token, j]|. One ranking of the residual stream
serves the whole network, from the sum of the blocks' scores; heads and hidden units are ranked within their own block,
a head by the mean over its neurons.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import reduce
from torch import Tensor, nn

from .axes import Anatomy, SubcloningError
from .files import load_tensors, save_tensors


@dataclass(frozen=True)
class Scores:
    """Mean |activation| of every unit of a parent, float32, one vector for each probed axis and block.

    means: `residual.3`, `head.3`, `hidden.3` -> (size,), the means at block 3.
    positions: how many (sample, token) positions were averaged.
    parent: fingerprint of the model that was scored.
    """

    means: dict[str, Tensor]
    positions: int
    parent: str

    def of(self, axis: str, block: int | None = None) -> Tensor:
        """(size,) scores of `axis` in `block`, or their sum over all blocks where `block` is None."""
        if block is not None:
            return self.means[f"{axis}.{block}"]
        return torch.stack([mean for key, mean in self.means.items() if key.split(".")[0] == axis]).sum(0)

    def save(self, path: str | os.PathLike) -> None:
        save_tensors(path, "scores", {"positions": self.positions, "parent": self.parent}, self.means)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Scores":
        header, means = load_tensors(path, "scores")
        return cls(means, **header)

    @classmethod
    def merge(cls, parts: Iterable["Scores"]) -> "Scores":
        """The scores of all parts' data together; every part must have scored the same parent."""
        parts = list(parts)
        if len({part.parent for part in parts}) != 1:
            raise SubcloningError(f"can merge scores of one parent only, got parents {[p.parent for p in parts]}")
        total = sum(part.positions for part in parts)
        means = {key: sum(p.means[key] * (p.positions / total) for p in parts) for key in parts[0].means}
        return cls(means, total, parts[0].parent)

    def merge_ranks(self) -> "Scores":
        """Merge with what the other ranks of the default process group scored; every rank gets the same result."""
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self)
        return Scores.merge(parts)


def score(parent: nn.Module, batches: Iterable[Tensor | Mapping[str, object]]) -> Scores:
    """Score `parent` by forward passes over `batches`, in evaluation mode, without gradients.

    Each batch is what the model's forward takes: a tensor, or a mapping of keyword arguments, without its `labels`.
    Batches are moved to the parent's device. Every position counts, so give batches without padding. The parent's
    weights and modes and the global random state are as before afterwards.

    Raises SubcloningError on an empty `batches`, on a batch of another kind, and on activations that are not finite.
    """
    if isinstance(batches, Tensor | Mapping):
        raise SubcloningError("batches must be an iterable of batches, got a single one: put it in a list")
    anatomy = Anatomy(parent)
    family = anatomy.family
    sums: dict[str, Tensor] = {}
    positions = 0

    def listen(key, axes):
        kept = {name: size for name, size in anatomy.inner.items() if name in axes.strip("()").split()}

        def hook(module, args, output=None):
            value = args[0] if output is None else output
            value = value[0] if isinstance(value, tuple) else value
            total = value.detach().float().abs().sum(dim=tuple(range(value.ndim - 1)))
            total = reduce(total, f"{axes} -> {key.split('.')[0]}", "mean", **kept)
            sums[key] = sums[key] + total if key in sums else total
            if key == counted:
                nonlocal positions
                positions += value.numel() // value.shape[-1]

        return hook

    counted = f"{next(iter(family.probes))}.0"
    device = next(iter(anatomy.tensors.values())).device
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(_evaluating(parent))
        for axis, probe in family.probes.items():
            for block in range(anatomy.depth):
                module = parent.get_submodule(probe.module.format(block=block))
                add = module.register_forward_hook if probe.side == "output" else module.register_forward_pre_hook
                stack.callback(add(listen(f"{axis}.{block}", probe.axes)).remove)
        for batch in batches:
            if isinstance(batch, Tensor):
                parent(batch.to(device), **family.scoring_kwargs)
            elif isinstance(batch, Mapping):
                batch = {key: v.to(device) if isinstance(v, Tensor) else v for key, v in batch.items()}
                batch.pop("labels", None)
                parent(**{**family.scoring_kwargs, **batch})
            else:
                raise SubcloningError(
                    f"each batch must be a tensor or a mapping of keyword arguments, got {type(batch).__name__}; "
                    "from a loader of (input, label) pairs pass (x for x, _ in loader)"
                )
    if not positions:
        raise SubcloningError("batches is empty: scoring needs at least one batch of the parent's data")
    means = {key: (total / positions).cpu() for key, total in sums.items()}
    bad = [key for key, mean in means.items() if not mean.isfinite().all()]
    if bad:
        raise SubcloningError(f"activations at {bad[0]} are NaN or infinite: check the parent's weights and its inputs")
    return Scores(means, positions, anatomy.fingerprint)


@contextmanager
def _evaluating(model: nn.Module):
    """Evaluation mode, and afterwards the mode that each module had."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
