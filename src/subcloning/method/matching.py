"""Whether a child can be made from a parent; where not, the error names the parameter, the axis and both sizes."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import nn

from ..errors import SubcloningError
from .anatomy import Anatomy, same_parent
from .axes import family_of
from .scores import Scores

SELECTIONS = ("importance", "first", "uniform", "random", "inconsistent", "least", "principal")
SCORED = ("importance", "least", "principal")


def rules_of(select: str | Mapping[str, str]) -> set[str]:
    """The rules that `select` of `make_plan` names."""
    return {select} if isinstance(select, str) else set(select.values())


def source_name(child: Anatomy, name: str, blocks: Sequence[int]) -> str:
    """The parent tensor that child tensor `name` copies."""
    block = child.blocks[name]
    return name if block is None else child.rows[name].format(block=blocks[block])


def check_rules(p: Anatomy, c: Anatomy, scores: Scores | None, rules: set[str], ignored: set[str]) -> None:
    """Raise unless both are of one family, the rules are known, and scores are there and of this parent."""
    if p.family is not c.family:
        raise SubcloningError(f"parent is a {p.family.name} and child a {c.family.name}: both must be of one family")
    for rule in sorted(rules):
        if rule not in SELECTIONS:
            raise SubcloningError(
                f"select={rule!r}: expected one of {', '.join(SELECTIONS)}, or one of them for each of "
                f"{', '.join(p.family.probes)}"
            )
        if rule in SCORED and scores is None:
            raise SubcloningError(f"select={rule!r} needs scores: pass score(parent, batches), or select='uniform'")
        if rule == "principal" and (scores is None or scores.stream is None):
            raise SubcloningError(
                "select='principal' needs the stream's covariance: score(parent, batches, stream=True)"
            )
    if scores and p.fingerprint and not same_parent(scores.parent, p.fingerprint):
        raise SubcloningError(
            f"the scores are of another parent (fingerprint {scores.parent}, this parent's is {p.fingerprint}): "
            "score this parent"
        )
    whole = {axis for x in (p, c) for layout in x.layouts.values() for axis in layout.axes}
    known = whole - {*p.family.probes, *p.inner, "1"} | {*p.family.settings}
    if wrong := ignored - known:
        raise SubcloningError(f"ignore_mismatched={sorted(wrong)}: expected some of {sorted(known)}")


def check_counterparts(
    p: Anatomy, c: Anatomy, blocks: Sequence[int], fresh: Collection[str], ignored: Collection[str] = ()
) -> None:
    """Raise unless every child tensor that is not fresh has a parent tensor, every parent tensor a use, and both models
    use them alike."""
    for name in c.tensors:
        if name not in fresh and source_name(c, name, blocks) not in p.aliases:
            raise SubcloningError(f"the parent has no tensor for the child's {name}: build both with the same options")
    used = {*c.rows.values(), *c.aliases}
    for name, row in p.rows.items():
        # What the child has no place for would be lost in silence.
        if row not in used and not set(p.layouts[name].axes) & set(ignored):
            raise SubcloningError(f"the child has no tensor for the parent's {row}: build both with the same options")
    for name, first in c.aliases.items():
        if p.aliases.get(name, name) == name != first:
            raise SubcloningError(f"{name} is tied in the child but not in the parent: build both alike")
    _check_settings(p, c, ignored)


def setting_of(model: nn.Module, setting: str) -> Any:
    """The value of a setting of a family (see `Family.settings`); None where the model has none of that name."""
    try:
        return attrgetter(setting)(model)
    except AttributeError:
        return None


def _check_settings(p: Anatomy, c: Anatomy, ignored: Collection[str]) -> None:
    for setting in p.family.settings:
        old, new = setting_of(p.model, setting), setting_of(c.model, setting)
        # Modules are equal to themselves only, and print what they are.
        if setting not in ignored and old != new and str(old) != str(new):
            raise SubcloningError(
                f"{setting}: the parent has {old} and the child {new}, which with the same weights computes something "
                f"else. Build both with the same options, or pass ignore_mismatched=[{setting!r}] where that is meant"
            )


def check_cut(p: Anatomy, name: str, axis: str, old: int, new: int) -> None:
    """Only scored axes may differ, and only shrink."""
    what = f"{name}, axis {axis}: the parent has {old} and the child {new}"
    if axis not in p.family.probes:
        raise SubcloningError(
            f"{what}. This axis is kept whole: make them equal, or pass ignore_mismatched=[{axis!r}] to leave tensors "
            "with it at the child's own initial values"
        )
    if new > old:
        raise SubcloningError(f"{what}. A child can be narrower than its parent; width growth is not offered")


def thin_sizes(model: nn.Module) -> list[int]:
    """The sizes below its own that heads of a child of `model` can have, as `thin_heads` of `make_plan` says."""
    family = family_of(model)
    if family.rotary is None:
        return []
    size, rotary = family.inner_sizes(model)["dim"], family.rotary(model)
    return [n for n in range(1, size) if not size % n and not rotary % (2 * (size // n))]


def check_thin(p: Anatomy, name: str, old: int, new: int, allowed: bool) -> None:
    """Raise unless heads may be smaller, which must have been asked for."""
    fits = thin_sizes(p.model)
    if allowed and new in fits:
        return
    other = f", or with thin_heads=True (--head-size) be {' or '.join(map(str, fits))}" if fits else ""
    raise SubcloningError(
        f"{name}, axis dim: the parent has {old} and the child {new}. The head size must stay{other}: choose the "
        f"child's number of heads = width / {old}"
    )
