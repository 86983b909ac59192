"""Hugging Face BERT without a pooler (`add_pooling_layer=False`). Its norms stand in the stream: selection only."""

from ..axes import Family, Probe, register
from .shape import heads_and_blocks

BLOCK = "encoder.layer.{block}"


def resized(parent, *, hidden: int | None = None, **shape) -> dict[str, int]:
    """Arguments of `BertConfig` for a child, whose heads keep their size; `shape`: see `heads_and_blocks`."""
    config = parent.config
    heads, blocks = heads_and_blocks(config.num_attention_heads, config.num_hidden_layers, **shape)
    sizes = {
        name: getattr(config, name) * heads // config.num_attention_heads
        for name in ("hidden_size", "intermediate_size")
    }
    return (
        sizes
        | {"num_attention_heads": heads, "num_hidden_layers": blocks}
        | ({"intermediate_size": hidden} if hidden else {})
    )


def unsupported(model) -> str:
    if model.pooler is not None:
        return "its pooler mixes the stream with itself: load it with add_pooling_layer=False"
    return "it is a decoder" if model.config.is_decoder else ""


register(
    Family(
        name="HF BERT",
        model_class="transformers.models.bert.modeling_bert.BertModel",
        table={
            "embeddings.word_embeddings.weight": "vocab residual",
            "embeddings.position_embeddings.weight": "token residual",
            "embeddings.token_type_embeddings.weight": "type residual",
            "embeddings.LayerNorm.weight": "residual",
            "embeddings.LayerNorm.bias": "residual",
            **{
                f"{BLOCK}.attention.self.{part}.{kind}": "(head dim)" + " <- residual" * (kind == "weight")
                for part in ("query", "key", "value")
                for kind in ("weight", "bias")
            },
            f"{BLOCK}.attention.output.dense.weight": "residual <- (head dim)",
            f"{BLOCK}.attention.output.dense.bias": "residual",
            f"{BLOCK}.attention.output.LayerNorm.weight": "residual",
            f"{BLOCK}.attention.output.LayerNorm.bias": "residual",
            f"{BLOCK}.intermediate.dense.weight": "hidden <- residual",
            f"{BLOCK}.intermediate.dense.bias": "hidden",
            f"{BLOCK}.output.dense.weight": "residual <- hidden",
            f"{BLOCK}.output.dense.bias": "residual",
            f"{BLOCK}.output.LayerNorm.weight": "residual",
            f"{BLOCK}.output.LayerNorm.bias": "residual",
        },
        probes={
            "residual": Probe(BLOCK, "output", "residual"),
            "head": Probe(f"{BLOCK}.attention.output.dense", "input", "(head dim)"),
            "hidden": Probe(f"{BLOCK}.intermediate.dense", "output", "hidden"),
        },
        inner_sizes=lambda model: {"dim": model.config.hidden_size // model.config.num_attention_heads},
        points={
            "residual": {
                "branch": (
                    Probe(f"{BLOCK}.attention.output.dense", "output", "residual"),
                    Probe(f"{BLOCK}.output.dense", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe(f"{BLOCK}.output.dense", "input", "hidden"),)},
        },
        options={"add_pooling_layer": False},
        unsupported=unsupported,
        resized=resized,
    )
)
