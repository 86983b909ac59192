"""The shape of a child from what a destination says: in heads and blocks, and as a config's arguments."""

from math import floor, isclose

from ...errors import SubcloningError


def heads_and_blocks(
    parent_heads: int,
    parent_blocks: int,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    heads: int | None = None,
    blocks: int | None = None,
) -> tuple[int, int]:
    """(heads, blocks) of a child: `heads` and `blocks` as given, else `width` and `depth` times the parent's.

    The depth is rounded; raises SubcloningError where the width is not a whole number of heads.
    """
    if heads is None:
        heads = round(parent_heads * width)
        if heads < 1 or not isclose(heads, parent_heads * width, abs_tol=0.01):
            lower = max(1, floor(parent_heads * width))
            near = " or ".join(f"{n / parent_heads:.4g} ({n} heads)" for n in dict.fromkeys((lower, lower + 1)))
            raise SubcloningError(
                f"width={width} of {parent_heads} heads is {parent_heads * width:g}: heads keep their size, so choose "
                f"a width that gives a whole number of them, such as {near}"
            )
    if not 1 <= heads <= parent_heads:
        raise SubcloningError(f"heads={heads}: the parent has {parent_heads}, so expected 1 to {parent_heads}")
    return heads, max(1, round(parent_blocks * depth)) if blocks is None else blocks


def config_sizes(parent, *, hidden: int | None = None, **shape) -> dict[str, int]:
    """Arguments of a usual config of transformers for a child, whose heads keep their size; `shape`: see above."""
    config = parent.config
    before = config.num_attention_heads
    heads, blocks = heads_and_blocks(before, config.num_hidden_layers, **shape)
    return {
        "hidden_size": config.hidden_size // before * heads,
        "intermediate_size": hidden or config.intermediate_size * heads // before,
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
    }
