"""How important is each neuron, head and hidden unit of a parent? Mean |activation| over some of its data.

Paper section 4.1: score_j = mean over batch and tokens of |y[batch, token, j]|. One ranking of the residual stream
serves the whole network, from the sum of the blocks' scores; heads and hidden units are ranked within their own block,
a head by the mean over its neurons.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from .axes import Anatomy, Family, Probe, SubcloningError
from .files import load_tensors, save_tensors
from .principal import is_centred

# Statistic -> (what is averaged over positions, what is made of the averages).
STATISTICS = {
    "magnitude": (torch.abs, lambda mean: mean),
    "rms": (torch.square, torch.sqrt),
    "variance": (lambda x: torch.stack([x.square(), x]), lambda mean: mean[0] - mean[1].square()),
    "taylor": (torch.abs, lambda mean: mean),  # of x dL/dx
}
STREAM, INFLUENCE = "stream", "influence"


@dataclass(frozen=True)
class Scores:
    """Mean |activation| of every unit of a parent, float32, one vector for each probed axis and block.

    means: `residual.3`, `head.3`, `hidden.3` -> (size,), the means at block 3. `influence.3` -> (1,), how much block 3
        turns the residual stream: 1 - cosine between its input and its output (ShortGPT, arXiv 2403.03853). If asked
        for, `stream` -> (d, d), the covariance of the residual stream as its norms see it (without its mean, at a mean
        square of one, before the gain), averaged over all norms.
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

    def normalised(self) -> "Scores":
        """Each block's scores divided by their sum, so that every block has an equal vote on the residual stream."""
        kept = (STREAM, INFLUENCE)
        means = {key: mean if key.split(".")[0] in kept else mean / mean.sum() for key, mean in self.means.items()}
        return replace(self, means=means)

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


def score(
    parent: nn.Module,
    batches: Iterable[Tensor | Mapping[str, object]],
    *,
    statistic: str = "magnitude",
    points: Mapping[str, str] | None = None,
    loss: Callable[[nn.Module, Tensor], Tensor] | None = None,
    stream: bool = False,
) -> Scores:
    """Score `parent` by forward passes over `batches`, in evaluation mode, without gradients.

    Each batch is what the model's forward takes: a tensor, or a mapping of keyword arguments, without its `labels`.
    Batches are moved to the parent's device. Every position counts, so give batches without padding. The parent's
    weights and modes and the global random state are as before afterwards.

    statistic: of a unit's activations x over all positions: `magnitude`, the mean of |x|, as in the paper; `rms`, the
        root of the mean of x**2; `variance`; or `taylor`, the mean of |x dL/dx| for the scalar L = loss(parent, batch).
    points: axis -> where it is read instead of the paper's place, by a name among the family's `points`.
    stream: also the covariance of the residual stream, which `select="principal"` needs.

    Raises SubcloningError on an empty `batches`, on a batch of another kind, and on activations that are not finite.
    """
    if isinstance(batches, Tensor | Mapping):
        raise SubcloningError("batches must be an iterable of batches, got a single one: put it in a list")
    if statistic not in STATISTICS or (statistic == "taylor") != (loss is not None):
        raise SubcloningError(
            f"statistic={statistic!r} and {'a' if loss else 'no'} loss: expected one of {', '.join(STATISTICS)}, and a "
            "loss with taylor only"
        )
    anatomy = Anatomy(parent)
    family = anatomy.family
    probes = _probes(family, points or {})
    summand, finish = STATISTICS[statistic]
    sums: dict[str, Tensor] = {}
    positions = samples = 0  # samples: counted at each norm

    def add(key: str, values: Tensor) -> None:
        sums[key] = sums[key] + values if key in sums else values

    def listen(key: str):
        def take(value: Tensor) -> None:
            add(key, summand(value.detach().float().flatten(0, -2)).sum(-2))

        def hook(module, args, output=None):
            value = args[0] if output is None else output
            value = value[0] if isinstance(value, tuple) else value
            if loss:
                value.register_hook(lambda gradient: take(value * gradient))
            else:
                take(value)
            if key == counted:
                nonlocal positions
                positions += value.numel() // value.shape[-1]

        return hook

    def listen_to_stream(module, args):
        x = args[0].detach().float().flatten(0, -2)
        x = (F.layer_norm if keep_mean else F.rms_norm)(x, x.shape[-1:], eps=1e-6)
        nonlocal samples
        samples += len(args[0])
        add(STREAM, x.T @ x * (len(args[0]) / len(x)))

    def listen_to_block(key: str):
        def hook(module, args, output):
            x, y = args[0].detach().float(), (output[0] if isinstance(output, tuple) else output).detach().float()
            add(key, (1 - F.cosine_similarity(x, y, dim=-1)).sum().view(1))

        return hook

    counted = f"{next(axis for axis in probes if len(probes[axis]) == 1)}.0"
    norms = anatomy.norms if stream else ()
    keep_mean = stream and is_centred(anatomy)
    device = next(iter(anatomy.tensors.values())).device
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(loss is not None))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(evaluating(parent))
        for axis, places in probes.items():
            for block, probe in product(range(anatomy.depth), places):
                module = parent.get_submodule(probe.module.format(block=block))
                add_hook = module.register_forward_hook if probe.side == "output" else module.register_forward_pre_hook
                stack.callback(add_hook(listen(f"{axis}.{block}")).remove)
        for block in range(anatomy.depth):
            module = parent.get_submodule(family.probes["residual"].module.format(block=block))
            stack.callback(module.register_forward_hook(listen_to_block(f"{INFLUENCE}.{block}")).remove)
        for norm in norms:
            stack.callback(parent.get_submodule(norm).register_forward_pre_hook(listen_to_stream).remove)
        for batch in batches:
            args, kwargs = model_inputs(batch, device)
            if loss:
                parameters = [p for p in parent.parameters() if p.requires_grad]
                torch.autograd.grad(loss(parent, *args, **kwargs), parameters, allow_unused=True)
            else:
                parent(*args, **{**family.scoring_kwargs, **kwargs})
    if not positions:
        raise SubcloningError("batches is empty: scoring needs at least one batch of the parent's data")
    means = {}
    for axis, places in probes.items():
        inner = {name: size for name, size in anatomy.inner.items() if name in places[0].axes.strip("()").split()}
        for block in range(anatomy.depth):
            key = f"{axis}.{block}"
            mean = finish(sums[key] / (positions * len(places)))
            means[key] = reduce(mean, f"{places[0].axes} -> {axis}", "mean", **inner).cpu()
    means |= {key: (sums[key] / positions).cpu() for key in sums if key.startswith(f"{INFLUENCE}.")}
    if stream:
        means[STREAM] = (sums[STREAM] / samples).cpu()
    bad = [key for key, mean in means.items() if not mean.isfinite().all()]
    if bad:
        raise SubcloningError(f"activations at {bad[0]} are NaN or infinite: check the parent's weights and its inputs")
    return Scores(means, positions, anatomy.fingerprint)


def _probes(family: Family, points: Mapping[str, str]) -> dict[str, tuple[Probe, ...]]:
    """axis -> the places in a block where it is read."""
    probes = {axis: (probe,) for axis, probe in family.probes.items()}
    for axis, point in points.items():
        if point not in family.points.get(axis, {}):
            known = {axis: sorted(names) for axis, names in family.points.items()}
            raise SubcloningError(f"points {axis}={point!r}: this {family.name} has {known}")
        probes[axis] = family.points[axis][point]
    return probes


def model_inputs(batch: Tensor | Mapping, device: torch.device) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the forward pass."""
    if isinstance(batch, Tensor):
        return (batch.to(device),), {}
    if isinstance(batch, Mapping):
        values = {key: v.to(device) if isinstance(v, Tensor) else v for key, v in batch.items()}
        values.pop("labels", None)
        return (), values
    raise SubcloningError(
        f"each batch must be a tensor or a mapping of keyword arguments, got {type(batch).__name__}; "
        "from a loader of (input, label) pairs pass (x for x, _ in loader)"
    )


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode, and afterwards the mode that each module had."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
