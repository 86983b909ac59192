"""timm's Eva, with or without a head: EVA, EVA02 and DINOv3, whose MLP may be gated and whose keys may lack a bias."""

from ..axes import Family, Probe, register
from . import vit

BLOCK = "blocks.{block}"
ROPE = ("__class__", "temperature", "grid_offset", "grid_indexing", "ref_feat_shape")


def sizes(model) -> dict[str, int]:
    attention, mlp = model.blocks[0].attn, model.blocks[0].mlp
    packed = mlp.fc1.out_features // mlp.fc2.in_features if hasattr(mlp, "fc1") else 1
    groups = getattr(attention, "num_kv_heads", None) or attention.num_heads
    return {"qkv": 3, "dim": attention.head_dim, "query": attention.num_heads // groups, "gate": packed}


def resized(parent, **shape) -> dict[str, float]:
    """As of ViT, but that the ratio does not count the gate."""
    return vit.sized(parent, 1, **shape)


register(
    Family(
        name="timm Eva",
        model_class="timm.models.eva.Eva",
        table={
            "cls_token": "1 1 residual",
            "reg_token": "1 register residual",
            "pos_embed": "1 token residual",
            "patch_embed.proj.weight": "residual <- channel height width",
            "patch_embed.proj.bias": "residual",
            "norm_pre.weight": "residual",
            "norm_pre.bias": "residual",
            f"{BLOCK}.gamma_1": "residual",
            f"{BLOCK}.gamma_2": "residual",
            f"{BLOCK}.norm1.weight": "residual",
            f"{BLOCK}.norm1.bias": "residual",
            f"{BLOCK}.attn.qkv.weight": "(qkv head dim) <- residual",
            f"{BLOCK}.attn.qkv.bias": "(qkv head dim)",
            f"{BLOCK}.attn.q_bias": "(head dim)",
            f"{BLOCK}.attn.k_bias": "(head dim)",
            f"{BLOCK}.attn.v_bias": "(head dim)",
            f"{BLOCK}.attn.q_proj.weight": "(head query dim) <- residual",
            f"{BLOCK}.attn.q_proj.bias": "(head query dim)",
            f"{BLOCK}.attn.k_proj.weight": "(head dim) <- residual",
            f"{BLOCK}.attn.k_proj.bias": "(head dim)",
            f"{BLOCK}.attn.v_proj.weight": "(head dim) <- residual",
            f"{BLOCK}.attn.v_proj.bias": "(head dim)",
            f"{BLOCK}.attn.q_norm.weight": "dim",
            f"{BLOCK}.attn.q_norm.bias": "dim",
            f"{BLOCK}.attn.k_norm.weight": "dim",
            f"{BLOCK}.attn.k_norm.bias": "dim",
            f"{BLOCK}.attn.norm.weight": "(head query dim)",
            f"{BLOCK}.attn.norm.bias": "(head query dim)",
            f"{BLOCK}.attn.proj.weight": "residual <- (head query dim)",
            f"{BLOCK}.attn.proj.bias": "residual",
            f"{BLOCK}.norm2.weight": "residual",
            f"{BLOCK}.norm2.bias": "residual",
            f"{BLOCK}.mlp.fc1.weight": "(gate hidden) <- residual",
            f"{BLOCK}.mlp.fc1.bias": "(gate hidden)",
            f"{BLOCK}.mlp.fc1_g.weight": "hidden <- residual",
            f"{BLOCK}.mlp.fc1_g.bias": "hidden",
            f"{BLOCK}.mlp.fc1_x.weight": "hidden <- residual",
            f"{BLOCK}.mlp.fc1_x.bias": "hidden",
            f"{BLOCK}.mlp.norm.weight": "hidden",
            f"{BLOCK}.mlp.norm.bias": "hidden",
            f"{BLOCK}.mlp.fc2.weight": "residual <- hidden",
            f"{BLOCK}.mlp.fc2.bias": "residual",
            "norm.weight": "residual",
            "norm.bias": "residual",
            "fc_norm.weight": "residual",
            "fc_norm.bias": "residual",
            "head.weight": "label <- residual",
            "head.bias": "label",
        },
        probes={
            "residual": Probe(BLOCK, "output", "residual"),
            "head": Probe(f"{BLOCK}.attn.proj", "input", "(head query dim)"),
            "hidden": Probe(f"{BLOCK}.mlp.fc2", "input", "hidden"),
        },
        inner_sizes=sizes,
        points={
            "residual": {
                "branch": (
                    Probe(f"{BLOCK}.attn.proj", "output", "residual"),
                    Probe(f"{BLOCK}.mlp.fc2", "output", "residual"),
                )
            },
        },
        norms={
            f"{BLOCK}.norm1": tuple(f"{BLOCK}.attn.{layer}" for layer in ("qkv", "q_proj", "k_proj", "v_proj")),
            f"{BLOCK}.norm2": tuple(f"{BLOCK}.mlp.{layer}" for layer in ("fc1", "fc1_g", "fc1_x")),
            "norm": ("head",),
            "fc_norm": ("head",),
        },
        gains={f"{BLOCK}.gamma_1": (f"{BLOCK}.attn.proj",), f"{BLOCK}.gamma_2": (f"{BLOCK}.mlp.fc2",)},
        settings=(*vit.SETTINGS, "blocks.0.attn.rotate_half", *(f"rope.{name}" for name in ROPE)),
        unrotatable=vit.unrotatable,
        resized=resized,
    )
)
