"""Hugging Face GPT-NeoX (Pythia) with its head: the blocks' two layers side by side, or one after the other."""

from ..axes import Family, Probe, register
from .shape import config_sizes

BLOCK = "gpt_neox.layers.{block}"
SETTINGS = ("config.hidden_act", "config.layer_norm_eps", "config.rope_parameters", "config.use_parallel_residual")

register(
    Family(
        name="HF GPT-NeoX",
        model_class="transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXForCausalLM",
        table={
            "gpt_neox.embed_in.weight": "vocab residual",
            f"{BLOCK}.input_layernorm.weight": "residual",
            f"{BLOCK}.input_layernorm.bias": "residual",
            f"{BLOCK}.post_attention_layernorm.weight": "residual",
            f"{BLOCK}.post_attention_layernorm.bias": "residual",
            f"{BLOCK}.attention.query_key_value.weight": "(head qkv dim) <- residual",
            f"{BLOCK}.attention.query_key_value.bias": "(head qkv dim)",
            f"{BLOCK}.attention.dense.weight": "residual <- (head dim)",
            f"{BLOCK}.attention.dense.bias": "residual",
            f"{BLOCK}.mlp.dense_h_to_4h.weight": "hidden <- residual",
            f"{BLOCK}.mlp.dense_h_to_4h.bias": "hidden",
            f"{BLOCK}.mlp.dense_4h_to_h.weight": "residual <- hidden",
            f"{BLOCK}.mlp.dense_4h_to_h.bias": "residual",
            "gpt_neox.final_layer_norm.weight": "residual",
            "gpt_neox.final_layer_norm.bias": "residual",
            "lm_head.weight": "vocab <- residual",
        },
        probes={
            "residual": Probe(BLOCK, "output", "residual"),
            "head": Probe(f"{BLOCK}.attention.dense", "input", "(head dim)"),
            "hidden": Probe(f"{BLOCK}.mlp.dense_h_to_4h", "output", "hidden"),
        },
        inner_sizes=lambda model: {"qkv": 3, "dim": model.config.hidden_size // model.config.num_attention_heads},
        scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
        tied={"lm_head.weight": ("gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias")},
        points={
            "residual": {
                "branch": (
                    Probe(f"{BLOCK}.attention.dense", "output", "residual"),
                    Probe(f"{BLOCK}.mlp.dense_4h_to_h", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe(f"{BLOCK}.mlp.dense_4h_to_h", "input", "hidden"),)},
        },
        norms={
            f"{BLOCK}.input_layernorm": (f"{BLOCK}.attention.query_key_value",),
            f"{BLOCK}.post_attention_layernorm": (f"{BLOCK}.mlp.dense_h_to_4h",),
            "gpt_neox.final_layer_norm": ("lm_head",),
        },
        settings=SETTINGS,
        resized=config_sizes,
    )
)
