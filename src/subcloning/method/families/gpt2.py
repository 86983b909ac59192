"""Hugging Face GPT-2, with its heads or none. Conv1D stores weights as (in, out): arrows point right."""

from ..axes import Family, Probe, register
from .shape import heads_and_blocks

OPTIONS = ("activation_function", "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
SETTINGS = tuple(f"config.{name}" for name in OPTIONS)


def resized(parent, *, hidden: int | None = None, **shape) -> dict[str, int | None]:
    """Arguments of `GPT2Config` for a child, whose heads keep their size; `shape`: see `heads_and_blocks`."""
    config = parent.config
    heads, blocks = heads_and_blocks(config.n_head, config.n_layer, **shape)
    inner = hidden or (config.n_inner and config.n_inner * heads // config.n_head)  # None: four times the width
    return {"n_embd": config.n_embd // config.n_head * heads, "n_head": heads, "n_layer": blocks, "n_inner": inner}


def family(name: str, head: dict[str, str], prefix: str = "transformer.", **fields) -> Family:
    """Of class `name`, whose body's names begin with `prefix`. head: rows of its own."""
    block = f"{prefix}h.{{block}}"
    return Family(
        name="HF GPT-2",
        model_class=f"transformers.models.gpt2.modeling_gpt2.{name}",
        table={
            # Tied to lm_head by default, and then an embedding: selected, never scaled.
            f"{prefix}wte.weight": "vocab residual",
            f"{prefix}wpe.weight": "token residual",
            f"{block}.ln_1.weight": "residual",
            f"{block}.ln_1.bias": "residual",
            f"{block}.attn.c_attn.weight": "residual -> (qkv head dim)",
            f"{block}.attn.c_attn.bias": "(qkv head dim)",
            f"{block}.attn.c_proj.weight": "(head dim) -> residual",
            f"{block}.attn.c_proj.bias": "residual",
            f"{block}.ln_2.weight": "residual",
            f"{block}.ln_2.bias": "residual",
            f"{block}.mlp.c_fc.weight": "residual -> hidden",
            f"{block}.mlp.c_fc.bias": "hidden",
            f"{block}.mlp.c_proj.weight": "hidden -> residual",
            f"{block}.mlp.c_proj.bias": "residual",
            f"{prefix}ln_f.weight": "residual",
            f"{prefix}ln_f.bias": "residual",
            **head,
        },
        probes={
            "residual": Probe(block, "output", "residual"),
            "head": Probe(f"{block}.attn.c_proj", "input", "(head dim)"),
            "hidden": Probe(f"{block}.mlp.c_fc", "output", "hidden"),
        },
        inner_sizes=lambda model: {"qkv": 3, "dim": model.config.n_embd // model.config.n_head},
        points={
            "residual": {
                "branch": (
                    Probe(f"{block}.attn.c_proj", "output", "residual"),
                    Probe(f"{block}.mlp.c_proj", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe(f"{block}.mlp.c_proj", "input", "hidden"),)},
        },
        norms={
            f"{block}.ln_1": (f"{block}.attn.c_attn",),
            f"{block}.ln_2": (f"{block}.mlp.c_fc",),
            f"{prefix}ln_f": tuple(row.removesuffix(".weight") for row in head if row.endswith(".weight")),
        },
        settings=SETTINGS,
        resized=resized,
        **fields,
    )


GPT2 = register(
    family(
        "GPT2LMHeadModel",
        {"lm_head.weight": "vocab <- residual"},
        tied={"lm_head.weight": ("transformer.ln_f.weight", "transformer.ln_f.bias")},
        # Scores need no logits and no cache, which for GPT-2 take more memory than all else together.
        scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
    )
)
register(family("GPT2Model", {}, "", scoring_kwargs={"use_cache": False}))
for name, head in (("Sequence", {"score.weight": "label <- residual"}),
                   ("Token", {"classifier.weight": "label <- residual", "classifier.bias": "label"})):  # fmt: skip
    register(family(f"GPT2For{name}Classification", head, scoring_kwargs={"use_cache": False}))
