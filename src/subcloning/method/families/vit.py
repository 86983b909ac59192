"""timm's VisionTransformer, with or without a head: LayerScale, register tokens, QK norm, gated MLP, distilled DeiT."""

from torch import nn

from ..axes import Family, Probe, register
from .shape import heads_and_blocks

SETTINGS = ("global_pool", "blocks.0.__class__", "blocks.0.norm1.eps", "blocks.0.mlp.__class__", "blocks.0.mlp.act")


def unsupported(model) -> str:
    return "global_pool='prr' attends without weights of its own" if model.global_pool == "prr" else ""


def unrotatable(model) -> str:
    if not isinstance(model.norm_pre, nn.Identity):
        return "norm_pre stands in the stream itself"
    if "max" in model.global_pool:
        return f"global_pool={model.global_pool!r} takes the maximum of each neuron over the tokens"
    if other := {type(block).__name__ for block in model.blocks} - {"Block", "EvaBlock"}:
        return f"its blocks are of class {min(other)}, where norms may come after the layers"
    return ""


def resized(parent, **shape) -> dict[str, float]:
    return sized(parent, gates(parent), **shape)


def sized(parent, counted: int, *, hidden: int | None = None, **shape) -> dict[str, float]:
    """Arguments of `timm.create_model` for a child, whose heads keep their size; `shape`: see `heads_and_blocks`.
    counted: how often `mlp_ratio` counts a hidden unit."""
    attention = parent.blocks[0].attn
    heads, blocks = heads_and_blocks(attention.num_heads, len(parent.blocks), **shape)
    width = heads * attention.head_dim
    hidden = hidden or parent.blocks[0].mlp.fc2.in_features * heads // attention.num_heads
    # timm multiplies the ratio by the width, and rounds down.
    ratio = (counted * hidden + 0.5) / width
    return {"embed_dim": width, "num_heads": heads, "depth": blocks, "mlp_ratio": ratio}


def gates(model) -> int:
    """2 where fc1 makes a gate, too (GluMlp, as in DINOv2 giant), else 1."""
    mlp = model.blocks[0].mlp
    return mlp.fc1.out_features // mlp.fc2.in_features


VIT = register(
    Family(
        name="timm ViT",
        model_class="timm.models.vision_transformer.VisionTransformer",
        table={
            "cls_token": "1 1 residual",
            "dist_token": "1 1 residual",
            "reg_token": "1 register residual",
            "pos_embed": "1 token residual",
            "patch_embed.proj.weight": "residual <- channel height width",
            "patch_embed.proj.bias": "residual",
            "norm_pre.weight": "residual",
            "norm_pre.bias": "residual",
            "blocks.{block}.norm1.weight": "residual",
            "blocks.{block}.norm1.bias": "residual",
            "blocks.{block}.attn.qkv.weight": "(qkv head dim) <- residual",
            "blocks.{block}.attn.qkv.bias": "(qkv head dim)",
            "blocks.{block}.attn.q_norm.weight": "dim",
            "blocks.{block}.attn.q_norm.bias": "dim",
            "blocks.{block}.attn.k_norm.weight": "dim",
            "blocks.{block}.attn.k_norm.bias": "dim",
            "blocks.{block}.attn.proj.weight": "residual <- (head dim)",
            "blocks.{block}.attn.proj.bias": "residual",
            "blocks.{block}.ls1.gamma": "residual",
            "blocks.{block}.norm2.weight": "residual",
            "blocks.{block}.norm2.bias": "residual",
            "blocks.{block}.mlp.fc1.weight": "(gate hidden) <- residual",
            "blocks.{block}.mlp.fc1.bias": "(gate hidden)",
            "blocks.{block}.mlp.fc2.weight": "residual <- hidden",
            "blocks.{block}.mlp.fc2.bias": "residual",
            "blocks.{block}.ls2.gamma": "residual",
            "norm.weight": "residual",
            "norm.bias": "residual",
            "fc_norm.weight": "residual",
            "fc_norm.bias": "residual",
            "head.weight": "label <- residual",
            "head.bias": "label",
            "head_dist.weight": "label <- residual",
            "head_dist.bias": "label",
        },
        probes={
            "residual": Probe("blocks.{block}", "output", "residual"),
            "head": Probe("blocks.{block}.attn.proj", "input", "(head dim)"),
            "hidden": Probe("blocks.{block}.mlp.fc1", "output", "(gate hidden)"),
        },
        inner_sizes=lambda model: {"qkv": 3, "dim": model.blocks[0].attn.head_dim, "gate": gates(model)},
        points={
            "residual": {
                "branch": (
                    Probe("blocks.{block}.attn.proj", "output", "residual"),
                    Probe("blocks.{block}.mlp.fc2", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe("blocks.{block}.mlp.fc2", "input", "hidden"),)},
        },
        norms={
            "blocks.{block}.norm1": ("blocks.{block}.attn.qkv",),
            "blocks.{block}.norm2": ("blocks.{block}.mlp.fc1",),
            "norm": ("head", "head_dist"),
            "fc_norm": ("head",),
        },
        gains={
            "blocks.{block}.ls1.gamma": ("blocks.{block}.attn.proj",),
            "blocks.{block}.ls2.gamma": ("blocks.{block}.mlp.fc2",),
        },
        settings=(*SETTINGS, "pool_include_prefix"),
        unsupported=unsupported,
        unrotatable=unrotatable,
        resized=resized,
    )
)
