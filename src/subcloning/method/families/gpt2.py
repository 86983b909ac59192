"""Hugging Face GPT-2 with its language-modelling head. Conv1D stores weights as (in, out): arrows point right."""

from ..axes import Family, Probe, register
from .shape import heads_and_blocks


def resized(parent, *, hidden: int | None = None, **shape) -> dict[str, int | None]:
    """Arguments of `GPT2Config` for a child, whose heads keep their size; `shape`: see `heads_and_blocks`."""
    config = parent.config
    heads, blocks = heads_and_blocks(config.n_head, config.n_layer, **shape)
    inner = hidden or (config.n_inner and config.n_inner * heads // config.n_head)  # None: four times the width
    return {"n_embd": config.n_embd // config.n_head * heads, "n_head": heads, "n_layer": blocks, "n_inner": inner}


GPT2 = register(
    Family(
        name="HF GPT-2",
        model_class="transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel",
        table={
            # Tied to lm_head by default, and then an embedding: selected, never scaled.
            "transformer.wte.weight": "vocab residual",
            "transformer.wpe.weight": "token residual",
            "transformer.h.{block}.ln_1.weight": "residual",
            "transformer.h.{block}.ln_1.bias": "residual",
            "transformer.h.{block}.attn.c_attn.weight": "residual -> (qkv head dim)",
            "transformer.h.{block}.attn.c_attn.bias": "(qkv head dim)",
            "transformer.h.{block}.attn.c_proj.weight": "(head dim) -> residual",
            "transformer.h.{block}.attn.c_proj.bias": "residual",
            "transformer.h.{block}.ln_2.weight": "residual",
            "transformer.h.{block}.ln_2.bias": "residual",
            "transformer.h.{block}.mlp.c_fc.weight": "residual -> hidden",
            "transformer.h.{block}.mlp.c_fc.bias": "hidden",
            "transformer.h.{block}.mlp.c_proj.weight": "hidden -> residual",
            "transformer.h.{block}.mlp.c_proj.bias": "residual",
            "transformer.ln_f.weight": "residual",
            "transformer.ln_f.bias": "residual",
            "lm_head.weight": "vocab <- residual",
        },
        probes={
            "residual": Probe("transformer.h.{block}", "output", "residual"),
            "head": Probe("transformer.h.{block}.attn.c_proj", "input", "(head dim)"),
            "hidden": Probe("transformer.h.{block}.mlp.c_fc", "output", "hidden"),
        },
        inner_sizes=lambda model: {"qkv": 3, "dim": model.transformer.h[0].attn.head_dim},
        # Scores need no logits and no cache, which for GPT-2 take more memory than all else together.
        scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
        tied={"lm_head.weight": ("transformer.ln_f.weight", "transformer.ln_f.bias")},
        points={
            "residual": {
                "branch": (
                    Probe("transformer.h.{block}.attn.c_proj", "output", "residual"),
                    Probe("transformer.h.{block}.mlp.c_proj", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe("transformer.h.{block}.mlp.c_proj", "input", "hidden"),)},
        },
        norms={
            "transformer.h.{block}.ln_1": ("transformer.h.{block}.attn.c_attn",),
            "transformer.h.{block}.ln_2": ("transformer.h.{block}.mlp.c_fc",),
            "transformer.ln_f": ("lm_head",),
        },
        resized=resized,
    )
)
