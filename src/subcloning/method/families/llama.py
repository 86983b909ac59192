"""Hugging Face Llama, Mistral, Qwen2 and Qwen3, with their heads: RMSNorm, gated MLP, grouped queries.

A unit of the axis `head` is a key/value head with all its query heads, which are cut together.
"""

from ...errors import SubcloningError
from ..axes import Family, Probe, register
from .shape import heads_and_blocks

BLOCK = "model.layers.{block}"


def resized(parent, *, heads: int | None = None, hidden: int | None = None, **shape) -> dict:
    """Arguments of the config for a child, whose heads keep their size and their groups; `heads` are query heads."""
    config = parent.config
    groups, queries = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    if heads is not None and heads % queries:
        raise SubcloningError(
            f"heads={heads}: {queries} query heads share a key/value head, so expected a multiple of {queries}"
        )
    kept, blocks = heads_and_blocks(groups, config.num_hidden_layers, heads=heads and heads // queries, **shape)
    sizes = {name: getattr(config, name) * kept // groups for name in ("hidden_size", "intermediate_size")}
    sizes["intermediate_size"] = hidden or sizes["intermediate_size"]
    sizes |= {"num_key_value_heads": kept, "num_attention_heads": kept * queries, "num_hidden_layers": blocks}
    kinds = getattr(config, "layer_types", None)
    return sizes | ({"layer_types": list(kinds[:blocks])} if kinds else {})


def unsupported(model) -> str:
    kinds = set(getattr(model.config, "layer_types", None) or [])
    return f"its blocks are of several kinds, {', '.join(sorted(kinds))}" if len(kinds) > 1 else ""


def sizes(model) -> dict[str, int]:
    attention = model.model.layers[0].self_attn
    return {"dim": attention.head_dim, "query": attention.num_key_value_groups}


TABLE = {
    "model.embed_tokens.weight": "vocab residual",
    f"{BLOCK}.input_layernorm.weight": "residual",
    f"{BLOCK}.self_attn.q_proj.weight": "(head query dim) <- residual",
    f"{BLOCK}.self_attn.q_proj.bias": "(head query dim)",
    f"{BLOCK}.self_attn.k_proj.weight": "(head dim) <- residual",
    f"{BLOCK}.self_attn.k_proj.bias": "(head dim)",
    f"{BLOCK}.self_attn.v_proj.weight": "(head dim) <- residual",
    f"{BLOCK}.self_attn.v_proj.bias": "(head dim)",
    f"{BLOCK}.self_attn.q_norm.weight": "dim",
    f"{BLOCK}.self_attn.k_norm.weight": "dim",
    f"{BLOCK}.self_attn.o_proj.weight": "residual <- (head query dim)",
    f"{BLOCK}.self_attn.o_proj.bias": "residual",
    f"{BLOCK}.post_attention_layernorm.weight": "residual",
    f"{BLOCK}.mlp.gate_proj.weight": "hidden <- residual",
    f"{BLOCK}.mlp.gate_proj.bias": "hidden",
    f"{BLOCK}.mlp.up_proj.weight": "hidden <- residual",
    f"{BLOCK}.mlp.up_proj.bias": "hidden",
    f"{BLOCK}.mlp.down_proj.weight": "residual <- hidden",
    f"{BLOCK}.mlp.down_proj.bias": "residual",
    "model.norm.weight": "residual",
    "lm_head.weight": "vocab <- residual",
}

for name in ("Llama", "Mistral", "Qwen2", "Qwen3"):
    register(
        Family(
            name=f"HF {name}",
            model_class=f"transformers.models.{name.lower()}.modeling_{name.lower()}.{name}ForCausalLM",
            table=TABLE,
            probes={
                "residual": Probe(BLOCK, "output", "residual"),
                "head": Probe(f"{BLOCK}.self_attn.o_proj", "input", "(head query dim)"),
                "hidden": Probe(f"{BLOCK}.mlp.down_proj", "input", "hidden"),
            },
            inner_sizes=sizes,
            scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
            tied={"lm_head.weight": ("model.norm.weight",)},
            points={
                "residual": {
                    "branch": (
                        Probe(f"{BLOCK}.self_attn.o_proj", "output", "residual"),
                        Probe(f"{BLOCK}.mlp.down_proj", "output", "residual"),
                    )
                },
                "hidden": {"gate": (Probe(f"{BLOCK}.mlp.gate_proj", "output", "hidden"),)},
            },
            norms={
                f"{BLOCK}.input_layernorm": tuple(f"{BLOCK}.self_attn.{part}_proj" for part in "qkv"),
                f"{BLOCK}.post_attention_layernorm": (f"{BLOCK}.mlp.gate_proj", f"{BLOCK}.mlp.up_proj"),
                "model.norm": ("lm_head",),
            },
            unsupported=unsupported,
            resized=resized,
        )
    )
