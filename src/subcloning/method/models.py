"""The two ends of subcloning a checkpoint: a child of a wanted shape, and a folder that its library loads."""

import os
from typing import Any

from torch import nn

from ..errors import SubcloningError
from ..files import atomic
from .axes import family_of
from .matching import thin_sizes
from .plan import Plan, make_plan

PLAN = "plan.safetensors"


def child_of(
    parent: nn.Module,
    *,
    width: float | None = None,
    depth: float | None = None,
    heads: int | None = None,
    hidden: int | None = None,
    head_size: int | None = None,
) -> nn.Module:
    """A model of the parent's class, of a shape of its own, with its library's initial weights.

    width: share of the parent's; or heads, which keep their size, in its place. depth: blocks where it is an int, a
    share of the parent's where it is a float. hidden: hidden units of each block (default: as the width). head_size: of
    the Llama kinds, heads smaller by a whole factor (`thin_heads` of `make_plan`). What is not given stays. Dropout and
    the like are the parent's; a timm model's are those of its architecture's name.

    Raises SubcloningError for a family that is not known, and for shapes that the parent cannot be cut to.
    """
    blocks = {"blocks": depth} if isinstance(depth, int) else {"depth": depth}
    shape = shape_of(parent, width=width, heads=heads, hidden=hidden, head_size=head_size, **blocks)
    model: Any = parent
    if hasattr(model, "save_pretrained"):
        config = type(model.config).from_dict(model.config.to_dict() | shape)
        child = type(model)(config)
    else:
        import timm

        embed = model.patch_embed
        kept = {"num_classes": model.num_classes, "img_size": embed.img_size, "in_chans": embed.proj.in_channels}
        kept |= {"global_pool": model.global_pool}
        if not (name := getattr(model, "pretrained_cfg", {}).get("architecture")):
            raise SubcloningError("this timm model has no architecture's name: build the child with its constructor")
        child = timm.create_model(name, **kept | {"patch_size": embed.patch_size[0]} | shape)
    make_plan(parent, child, select="first", thin_heads=head_size is not None)  # raises where the two do not fit
    return child


def shape_of(parent: nn.Module, **shape: Any) -> dict:
    """What the library needs to be told for a child of `parent`, for which the meta device will do.

    shape: as in `child_of`; but `blocks` for a number of them, and None for what is not given.
    """
    given = {key: value for key, value in shape.items() if value is not None}
    family = family_of(parent)
    if "head_size" in given and given["head_size"] not in (fits := thin_sizes(parent)):
        known = f"one of {', '.join(map(str, fits))}" if fits else f"none, since heads of {family.name} keep theirs"
        raise SubcloningError(f"head_size={given['head_size']}: expected {known}")
    return family.resized(parent, **given)


def save(child: nn.Module, folder: str | os.PathLike, plan: Plan | None = None) -> None:
    """Write `child` to `folder`, whole or not at all, for its own library to load; and beside it the plan by which it
    was made. Of a transformers model, save the parent's tokenizer there too.

    Raises SubcloningError if `folder` exists.
    """
    if os.path.exists(folder):
        raise SubcloningError(f"{os.fspath(folder)} exists: choose a folder that does not")
    model: Any = child
    with atomic(folder) as temporary:
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(temporary)
        else:
            from timm.models import save_for_hf

            save_for_hf(model, str(temporary), safe_serialization=True)
        if plan:
            plan.save(temporary / PLAN)
