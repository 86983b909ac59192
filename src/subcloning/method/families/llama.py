"""Hugging Face Llama, Mistral, Qwen2 and Qwen3, with their heads or none: RMSNorm, gated MLP, grouped queries.

A unit of the axis `head` is a key/value head with all its query heads, which are cut together.
"""

from itertools import product

from ...errors import SubcloningError
from ..axes import Family, Probe, register
from .shape import heads_and_blocks


def resized(
    parent, *, heads: int | None = None, hidden: int | None = None, head_size: int | None = None, **shape
) -> dict:
    """Arguments of the config for a child, whose heads keep their groups and, unless `head_size` is given, their size;
    `heads` are query heads.

    With both `width` and `heads` each is of itself: a head's size is the config's own, whatever the width.
    """
    config = parent.config
    groups, queries = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    if heads is not None and heads % queries:
        near = " or ".join(str(n * queries) for n in dict.fromkeys((max(1, heads // queries), heads // queries + 1)))
        raise SubcloningError(
            f"heads={heads}: {queries} query heads share a key/value head and are kept together, so expected a "
            f"multiple of {queries}, such as {near}"
        )
    kept, blocks = heads_and_blocks(groups, config.num_hidden_layers, heads=heads and heads // queries, **shape)
    sizes = {name: getattr(config, name) * kept // groups for name in ("hidden_size", "intermediate_size")}
    if heads is not None and "width" in shape:
        sizes = {name: round(getattr(config, name) * shape["width"]) for name in sizes}
    sizes["intermediate_size"] = hidden or sizes["intermediate_size"]
    sizes |= {"head_dim": head_size} if head_size else {}
    sizes |= {"num_key_value_heads": kept, "num_attention_heads": kept * queries, "num_hidden_layers": blocks}
    kinds = getattr(config, "layer_types", None)
    return sizes | ({"layer_types": list(kinds[:blocks])} if kinds else {})


SETTINGS = ("config.hidden_act", "config.rms_norm_eps", "config.rope_parameters")


def unsupported(model) -> str:
    kinds = set(getattr(model.config, "layer_types", None) or [])
    return f"its blocks are of several kinds, {', '.join(sorted(kinds))}" if len(kinds) > 1 else ""


def rotary(model) -> int:
    return 2 * len(model.base_model.rotary_emb.inv_freq)


def sizes(body) -> dict[str, int]:
    attention = body.layers[0].self_attn
    return {"dim": attention.head_dim, "query": attention.num_key_value_groups}


def table(prefix: str = "model.") -> dict[str, str]:
    """Of the body, whose names begin with `prefix`."""
    block = f"{prefix}layers.{{block}}"
    attention, mlp = f"{block}.self_attn", f"{block}.mlp"
    return {
        f"{prefix}embed_tokens.weight": "vocab residual",
        f"{block}.input_layernorm.weight": "residual",
        f"{attention}.q_proj.weight": "(head query dim) <- residual",
        f"{attention}.q_proj.bias": "(head query dim)",
        f"{attention}.k_proj.weight": "(head dim) <- residual",
        f"{attention}.k_proj.bias": "(head dim)",
        f"{attention}.v_proj.weight": "(head dim) <- residual",
        f"{attention}.v_proj.bias": "(head dim)",
        f"{attention}.q_norm.weight": "dim",
        f"{attention}.k_norm.weight": "dim",
        f"{attention}.o_proj.weight": "residual <- (head query dim)",
        f"{attention}.o_proj.bias": "residual",
        f"{block}.post_attention_layernorm.weight": "residual",
        f"{mlp}.gate_proj.weight": "hidden <- residual",
        f"{mlp}.gate_proj.bias": "hidden",
        f"{mlp}.up_proj.weight": "hidden <- residual",
        f"{mlp}.up_proj.bias": "hidden",
        f"{mlp}.down_proj.weight": "residual <- hidden",
        f"{mlp}.down_proj.bias": "residual",
        f"{prefix}norm.weight": "residual",
    }


def probes(prefix: str = "model.") -> dict[str, Probe]:
    return {
        "residual": Probe(f"{prefix}layers.{{block}}", "output", "residual"),
        "head": Probe(f"{prefix}layers.{{block}}.self_attn.o_proj", "input", "(head query dim)"),
        "hidden": Probe(f"{prefix}layers.{{block}}.mlp.down_proj", "input", "hidden"),
    }


def points(prefix: str = "model.") -> dict[str, dict[str, tuple[Probe, ...]]]:
    block = f"{prefix}layers.{{block}}"
    branch = (
        Probe(f"{block}.self_attn.o_proj", "output", "residual"),
        Probe(f"{block}.mlp.down_proj", "output", "residual"),
    )
    return {"residual": {"branch": branch}, "hidden": {"gate": (Probe(f"{block}.mlp.gate_proj", "output", "hidden"),)}}


def norms(prefix: str = "model.", head: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    block = f"{prefix}layers.{{block}}"
    return {
        f"{block}.input_layernorm": tuple(f"{block}.self_attn.{part}_proj" for part in "qkv"),
        f"{block}.post_attention_layernorm": (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"),
        f"{prefix}norm": head,
    }


# Class -> what its head is called; and that of the body alone.
HEADS = {"ForCausalLM": "lm_head", "ForSequenceClassification": "score", "ForTokenClassification": "score", "Model": ""}

for name, (kind, head) in product(("Llama", "Mistral", "Qwen2", "Qwen3"), HEADS.items()):
    prefix = "model." if head else ""
    rows = {f"{head}.weight": f"{'vocab' if head == 'lm_head' else 'label'} <- residual", f"{head}.bias": "label"}
    register(
        Family(
            name=f"HF {name}",
            model_class=f"transformers.models.{name.lower()}.modeling_{name.lower()}.{name}{kind}",
            table=table(prefix) | (rows if head else {}),
            probes=probes(prefix),
            inner_sizes=lambda model: sizes(model.base_model),
            scoring_kwargs={"use_cache": False} | ({"logits_to_keep": 1} if head == "lm_head" else {}),
            tied={"lm_head.weight": ("model.norm.weight",)} if head == "lm_head" else {},
            points=points(prefix),
            norms=norms(prefix, (head,) if head else ()),
            settings=SETTINGS if name == "Llama" else (*SETTINGS, "config.sliding_window"),
            unsupported=unsupported,
            resized=resized,
            rotary=rotary,
        )
    )
