"""Scoring: a parent runs over some of its data, and every probe of its family sums what it sees."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import SubcloningError
from .anatomy import Anatomy
from .axes import Probe
from .observe import Call, observe
from .principal import is_centred
from .scores import INFLUENCE, STATISTICS, STREAM, Scores


def score(
    parent: nn.Module | Anatomy,
    batches: Iterable[Tensor | Mapping[str, object]],
    *,
    statistic: str = "magnitude",
    points: Mapping[str, str] | None = None,
    loss: Callable[..., Tensor] | None = None,
    stream: bool = False,
) -> Scores:
    """Score `parent` by forward passes over `batches`, in evaluation mode, without gradients and outside of autocast.

    Each batch is what the model's forward takes: a tensor, or a mapping of keyword arguments, without its `labels`.
    Batches are moved to the parent's device. Positions where a batch's `attention_mask` (batch, tokens) is 0 are left
    out. A sequence padded on the right then counts as it would by itself; on the left it does only if the model is also
    given `position_ids` that begin after the padding. The parent's weights and modes and the global random state are as
    before afterwards.

    statistic: of a unit's activations x over all positions: `magnitude`, the mean of |x|, as in the paper; `rms`, the
        root of the mean of x**2; `variance`; or `taylor`, the mean of |x dL/dx| for the scalar L = loss(parent, batch).
        A mapping reaches `loss` as keyword arguments. A frozen parent will do.
    points: axis -> where it is read instead of the paper's place, by a name among the family's `points`.
    stream: also the covariance of the residual stream, which `select="principal"` needs.

    Raises SubcloningError on an empty `batches`, on a batch of another kind, on activations that are not finite, and
    where the modules that are read are not all called equally often.
    """
    if statistic not in STATISTICS or (statistic == "taylor") != (loss is not None):
        raise SubcloningError(
            f"statistic={statistic!r} and {'a' if loss else 'no'} loss: expected one of {', '.join(STATISTICS)}, and a "
            "loss with taylor only"
        )
    anatomy = Anatomy.of(parent)
    parent, family, blocks = anatomy.model, anatomy.family, range(anatomy.depth)
    probes = _probes(anatomy, points or {})
    totals = _Totals(STATISTICS[statistic][0])
    waiting: list[tuple[str, Call, Tensor]] = []  # activations that have no gradient yet

    def read(key: str, side: str, call: Call) -> None:
        value = getattr(call, side)
        if loss:
            waiting.append((key, call, value))
        else:
            totals.add_units(key, call.rows(value))

    def differentiate(loss: Callable[..., Tensor], /, *args, **kwargs) -> None:
        value = loss(parent, *args, **kwargs)
        gradients = torch.autograd.grad(value, [x for _, _, x in waiting], materialize_grads=True)
        for (key, call, x), gradient in zip(waiting, gradients, strict=True):
            totals.add_units(key, call.rows(x.detach() * gradient))
        waiting.clear()

    hooks = [
        (probe.module.format(block=block), partial(read, f"{axis}.{block}", probe.side))
        for axis, places in probes.items()
        for block, probe in product(blocks, places)
    ]
    residual = family.probe("residual", parent).module
    hooks += [(residual.format(block=b), partial(totals.add_influence, f"{INFLUENCE}.{b}")) for b in blocks]
    if stream:
        centred = is_centred(anatomy)
        hooks += [(norm, partial(totals.add_stream, centred)) for norm in anatomy.norms]
    with _differentiable(parent) if loss else nullcontext():
        run = partial(differentiate, loss) if loss else partial(parent, **family.scoring_kwargs)
        observe(parent, hooks, batches, run, gradients=loss is not None)
    sums = totals.checked()
    units = {
        f"{axis}.{block}": _by_unit(sums.pop(f"{axis}.{block}"), anatomy, axis, block, places[0].axes)
        for axis, places in probes.items()
        for block in blocks
    }
    return Scores(units | sums, totals.counts, anatomy.fingerprint, statistic, dict(points or {}))


class _Totals:
    """Sums and counts of `Scores`, while they grow. Sums are float64, so that many batches cost no digits."""

    def __init__(self, terms: Callable[[Tensor], list[Tensor]]):
        self.terms = terms
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, key: str, values: Tensor, count: int) -> None:
        if key in self.sums:
            self.sums[key] += values.to(self.sums[key].device)  # a parent may be spread over devices
        else:
            self.sums[key] = values.to("cpu" if values.device.type == "mps" else values.device).double()
        self.counts[key] = self.counts.get(key, 0) + count

    def add_units(self, key: str, x: Tensor) -> None:
        self.add(key, torch.stack([term.sum(0) for term in self.terms(x)]), len(x))

    def add_influence(self, key: str, call: Call) -> None:
        x, y = call.rows(call.input), call.rows(call.output)
        self.add(key, (1 - F.cosine_similarity(x.to(y.device), y, dim=-1)).sum().view(1), len(y))

    def add_stream(self, centred: bool, call: Call) -> None:
        """The mean products of each sample. They are multiplied in float32, which is what they cost; only sums grow."""
        x = call.rows(call.input)
        x = (F.layer_norm if centred else F.rms_norm)(x, x.shape[-1:], eps=1e-6)
        lengths = call.lengths(call.input)
        weights = (1 / lengths).repeat_interleave(lengths)
        self.add(STREAM, x.T @ (x * weights[:, None]), int((lengths > 0).sum()))

    def checked(self) -> dict[str, Tensor]:
        for key, value in self.sums.items():
            if not value.isfinite().all():
                raise SubcloningError(
                    f"activations at {key} are NaN or infinite: check the parent's weights and its inputs"
                )
        return {key: value.cpu() for key, value in self.sums.items()}


@contextmanager
def _differentiable(parent: nn.Module) -> Iterator[None]:
    """Within, every activation has a gradient, also those of a frozen parent."""
    if any(parameter.is_inference() for parameter in parent.parameters()):
        raise SubcloningError(
            "statistic='taylor' needs gradients, which a parent made under torch.inference_mode() cannot have: make it "
            "outside of it"
        )
    frozen = [p for p in parent.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _by_unit(sums: Tensor, anatomy: Anatomy, axis: str, block: int, axes: str) -> Tensor:
    """(terms, size, neurons of a unit) from (terms, neurons), whose last dimension has the given axes."""
    others = [name for name in axes.strip("()").split() if name != axis]
    inner = {name: anatomy.inner[name] for name in others}
    expected = prod(inner.values()) * (anatomy.size(axis, block) or 0)
    if sums.shape[1] != expected:
        raise SubcloningError(
            f"the probe of {axis} in block {block} reads {sums.shape[1]} neurons, expected {axes} to be {expected}: "
            "correct the family's probe"
        )
    return rearrange(sums, f"terms {axes} -> terms {axis} ({' '.join(others)})", **inner).contiguous()


def _probes(anatomy: Anatomy, points: Mapping[str, str]) -> dict[str, tuple[Probe, ...]]:
    """axis -> the places in a block where it is read."""
    family = anatomy.family
    probes: dict[str, tuple[Probe, ...]] = {axis: (family.probe(axis, anatomy.model),) for axis in family.probes}
    for axis, point in points.items():
        if point not in family.points.get(axis, {}):
            known = {axis: sorted(names) for axis, names in family.points.items()}
            raise SubcloningError(f"points {axis}={point!r}: this {family.name} has {known}")
        probes[axis] = tuple(probe for probe in family.points[axis][point] if probe.is_in(anatomy.model))
    return probes
