"""Hugging Face ViT and DINOv2 (with registers, too), with a classifier or none; DINOv2's MLP may be gated."""

from typing import Any

from ...errors import SubcloningError
from ..axes import Family, Probe, register
from .shape import config_sizes, heads_and_blocks


def vit_sizes(parent, **shape) -> dict[str, int]:
    """Of ViT, whose pooler is as wide as its stream."""
    sizes = config_sizes(parent, **shape)
    return sizes | {"pooler_output_size": sizes["hidden_size"]}


def dinov2_sizes(parent, *, hidden: int | None = None, **shape) -> dict[str, Any]:
    """Of DINOv2, whose hidden size is a multiple of its width."""
    config = parent.config
    before = config.num_attention_heads
    heads, blocks = heads_and_blocks(before, config.num_hidden_layers, **shape)
    width = config.hidden_size // before * heads
    ratio = {"mlp_ratio": ratio_of(hidden, width, config.use_swiglu_ffn)} if hidden else {}
    stages = {"out_features": None, "out_indices": None}  # which the config makes of the number of blocks
    return {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": blocks} | ratio | stages


def ratio_of(hidden: int, width: int, gated: bool) -> int:
    """The whole number by which DINOv2 multiplies its width for that many hidden units; of gated ones it takes two
    thirds, rounded up to a multiple of 8. Raises SubcloningError where there is none."""
    sizes = [(width * ratio * 2 // 3 + 7) // 8 * 8 if gated else width * ratio for ratio in range(1, 17)]
    if hidden not in sizes:
        first = ", ".join(map(str, sizes[:8]))
        raise SubcloningError(f"hidden={hidden}: DINOv2 of width {width} can have {first}, ...")
    return sizes.index(hidden) + 1


def unrotatable(model) -> str:
    return "its pooler mixes the stream with itself" if getattr(model, "pooler", None) is not None else ""


def vit(name: str, prefix: str, readers: tuple[str, ...]) -> Family:
    block = f"{prefix}layers.{{block}}"
    attention, mlp = f"{block}.attention", f"{block}.mlp"
    return Family(
        name="HF ViT",
        model_class=f"transformers.models.vit.modeling_vit.{name}",
        table={
            **embedded(f"{prefix}embeddings"),
            f"{prefix}embeddings.mask_token": "1 1 residual",
            **norm(f"{block}.layernorm_before"),
            **norm(f"{block}.layernorm_after"),
            **attended(attention),
            f"{mlp}.fc1.weight": "hidden <- residual",
            f"{mlp}.fc1.bias": "hidden",
            f"{mlp}.fc2.weight": "residual <- hidden",
            f"{mlp}.fc2.bias": "residual",
            **norm(f"{prefix}layernorm"),
            f"{prefix}pooler.dense.weight": "residual <- residual",
            f"{prefix}pooler.dense.bias": "residual",
            "classifier.weight": "label <- residual",
            "classifier.bias": "label",
        },
        probes={
            "residual": Probe(block, "output", "residual"),
            "head": Probe(f"{attention}.o_proj", "input", "(head dim)"),
            "hidden": Probe(f"{mlp}.fc1", "output", "hidden"),
        },
        inner_sizes=head_size,
        points={"hidden": {"activation": (Probe(f"{mlp}.fc2", "input", "hidden"),)}},
        norms={
            f"{block}.layernorm_before": tuple(f"{attention}.{part}_proj" for part in "qkv"),
            f"{block}.layernorm_after": (f"{mlp}.fc1",),
            f"{prefix}layernorm": readers,
        },
        settings=("config.hidden_act", "config.layer_norm_eps", "config.pooler_act"),
        unrotatable=unrotatable,
        resized=vit_sizes,
    )


def dinov2(name: str, prefix: str, readers: tuple[str, ...], module: str) -> Family:
    block = f"{prefix}encoder.layer.{{block}}"
    attention, mlp = f"{block}.attention", f"{block}.mlp"
    return Family(
        name="HF DINOv2",
        model_class=f"transformers.models.{module}.modeling_{module}.{name}",
        table={
            **embedded(f"{prefix}embeddings"),
            f"{prefix}embeddings.mask_token": "1 residual",
            f"{prefix}embeddings.register_tokens": "1 register residual",
            **norm(f"{block}.norm1"),
            **norm(f"{block}.norm2"),
            **attended(attention),
            f"{block}.layer_scale1.lambda1": "residual",
            f"{block}.layer_scale2.lambda1": "residual",
            **{f"{mlp}.{layer}.weight": "hidden <- residual" for layer in ("fc1", "gate_proj", "up_proj")},
            **{f"{mlp}.{layer}.bias": "hidden" for layer in ("fc1", "gate_proj", "up_proj")},
            **{f"{mlp}.{layer}.weight": "residual <- hidden" for layer in ("fc2", "down_proj")},
            **{f"{mlp}.{layer}.bias": "residual" for layer in ("fc2", "down_proj")},
            **norm(f"{prefix}layernorm"),
            # Reads the class token beside the mean of all patches.
            "classifier.weight": "label <- (part residual)",
            "classifier.bias": "label",
        },
        probes={
            "residual": Probe(block, "output", "residual"),
            "head": Probe(f"{attention}.o_proj", "input", "(head dim)"),
            "hidden": (Probe(f"{mlp}.fc1", "output", "hidden"), Probe(f"{mlp}.down_proj", "input", "hidden")),
        },
        inner_sizes=lambda model: head_size(model) | {"part": 2},
        norms={
            f"{block}.norm1": tuple(f"{attention}.{part}_proj" for part in "qkv"),
            f"{block}.norm2": tuple(f"{mlp}.{layer}" for layer in ("fc1", "gate_proj", "up_proj")),
            f"{prefix}layernorm": readers,
        },
        gains={
            f"{block}.layer_scale1.lambda1": (f"{attention}.o_proj",),
            f"{block}.layer_scale2.lambda1": (f"{mlp}.fc2", f"{mlp}.down_proj"),
        },
        settings=("config.hidden_act", "config.layer_norm_eps"),
        resized=dinov2_sizes,
    )


def embedded(embeddings: str) -> dict[str, str]:
    return {
        f"{embeddings}.cls_token": "1 1 residual",
        f"{embeddings}.position_embeddings": "1 token residual",
        f"{embeddings}.patch_embeddings.projection.weight": "residual <- channel height width",
        f"{embeddings}.patch_embeddings.projection.bias": "residual",
    }


def norm(name: str) -> dict[str, str]:
    return {f"{name}.weight": "residual", f"{name}.bias": "residual"}


def attended(attention: str) -> dict[str, str]:
    rows = {f"{attention}.o_proj.weight": "residual <- (head dim)", f"{attention}.o_proj.bias": "residual"}
    for part in "qkv":
        rows[f"{attention}.{part}_proj.weight"] = "(head dim) <- residual"
        rows[f"{attention}.{part}_proj.bias"] = "(head dim)"
    return rows


def head_size(model) -> dict[str, int]:
    return {"dim": model.config.hidden_size // model.config.num_attention_heads}


register(vit("ViTModel", "", ()))
register(vit("ViTForImageClassification", "vit.", ("classifier",)))
for name, module in (("Dinov2", "dinov2"), ("Dinov2WithRegisters", "dinov2_with_registers")):
    register(dinov2(f"{name}Model", "", (), module))
    register(dinov2(f"{name}ForImageClassification", f"{module}.", ("classifier",), module))
