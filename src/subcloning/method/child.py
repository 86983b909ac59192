"""A child from its parent in one call: score, plan and apply, and re-fit where asked."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..errors import SubcloningError
from .anatomy import Anatomy
from .matching import rules_of
from .plan import make_plan
from .refit import refit as make_up
from .scores import Scores
from .scoring import score
from .surgery import apply_plan


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
        if batches is None:
            raise SubcloningError("refit=True needs batches of the parent's data: subclone(parent, child, batches)")
        batches = batches if isinstance(batches, Tensor | Mapping) else list(batches)  # to be read twice
    p, c = Anatomy(parent), Anatomy(child)
    if scores is None and batches is not None:
        scores = score(p, batches, stream="principal" in rules_of(select))
    plan = make_plan(p, c, scores, select=select, **plan_options)
    apply_plan(plan, p, c, scale=scale, scale_tied=scale_tied)
    return child if batches is None or not refit else make_up(plan, p, c, batches)
