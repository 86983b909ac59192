"""Hugging Face Phi (1, 1.5 and 2) with its head: attention and MLP side by side behind one norm; QK norm or none."""

from ..axes import Family, Probe, register
from . import llama

BLOCK = "model.layers.{block}"
ATTENTION, MLP = f"{BLOCK}.self_attn", f"{BLOCK}.mlp"

register(
    Family(
        name="HF Phi",
        model_class="transformers.models.phi.modeling_phi.PhiForCausalLM",
        table={
            "model.embed_tokens.weight": "vocab residual",
            f"{BLOCK}.input_layernorm.weight": "residual",
            f"{BLOCK}.input_layernorm.bias": "residual",
            f"{ATTENTION}.q_proj.weight": "(head query dim) <- residual",
            f"{ATTENTION}.q_proj.bias": "(head query dim)",
            f"{ATTENTION}.k_proj.weight": "(head dim) <- residual",
            f"{ATTENTION}.k_proj.bias": "(head dim)",
            f"{ATTENTION}.v_proj.weight": "(head dim) <- residual",
            f"{ATTENTION}.v_proj.bias": "(head dim)",
            f"{ATTENTION}.q_layernorm.weight": "dim",
            f"{ATTENTION}.q_layernorm.bias": "dim",
            f"{ATTENTION}.k_layernorm.weight": "dim",
            f"{ATTENTION}.k_layernorm.bias": "dim",
            f"{ATTENTION}.dense.weight": "residual <- (head query dim)",
            f"{ATTENTION}.dense.bias": "residual",
            f"{MLP}.fc1.weight": "hidden <- residual",
            f"{MLP}.fc1.bias": "hidden",
            f"{MLP}.fc2.weight": "residual <- hidden",
            f"{MLP}.fc2.bias": "residual",
            "model.final_layernorm.weight": "residual",
            "model.final_layernorm.bias": "residual",
            "lm_head.weight": "vocab <- residual",
            "lm_head.bias": "vocab",
        },
        probes={
            "residual": Probe(BLOCK, "output", "residual"),
            "head": Probe(f"{ATTENTION}.dense", "input", "(head query dim)"),
            "hidden": Probe(f"{MLP}.fc1", "output", "hidden"),
        },
        inner_sizes=lambda model: llama.sizes(model.model),
        scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
        tied={"lm_head.weight": ("model.final_layernorm.weight", "model.final_layernorm.bias")},
        points={
            "residual": {
                "branch": (
                    Probe(f"{ATTENTION}.dense", "output", "residual"),
                    Probe(f"{MLP}.fc2", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe(f"{MLP}.fc2", "input", "hidden"),)},
        },
        norms={
            f"{BLOCK}.input_layernorm": (*(f"{ATTENTION}.{part}_proj" for part in "qkv"), f"{MLP}.fc1"),
            "model.final_layernorm": ("lm_head",),
        },
        settings=("config.hidden_act", "config.layer_norm_eps", "config.rope_parameters"),
        resized=llama.resized,
    )
)
