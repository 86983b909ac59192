"""Hugging Face BERT and RoBERTa: encoders, with their heads. Their norms stand in the stream: selection only."""

from ..axes import Family, Probe, register
from .shape import config_sizes

SETTINGS = ("config.hidden_act", "config.layer_norm_eps")


def unsupported(model) -> str:
    return "it is a decoder" if model.config.is_decoder else ""


def family(name: str, head: str, table: dict[str, str], prefix: str = "", tied: dict | None = None) -> Family:
    """Of the class with that `head`, whose encoder's names begin with `prefix`. table: the head's own tensors."""
    block = f"{prefix}encoder.layer.{{block}}"
    return Family(
        name=f"HF {name}",
        model_class=f"transformers.models.{name.lower()}.modeling_{name.lower()}.{name.capitalize()}{head}",
        table={
            f"{prefix}embeddings.word_embeddings.weight": "vocab residual",
            f"{prefix}embeddings.position_embeddings.weight": "token residual",
            f"{prefix}embeddings.token_type_embeddings.weight": "type residual",
            f"{prefix}embeddings.LayerNorm.weight": "residual",
            f"{prefix}embeddings.LayerNorm.bias": "residual",
            **{
                f"{block}.attention.self.{part}.{kind}": "(head dim)" + " <- residual" * (kind == "weight")
                for part in ("query", "key", "value")
                for kind in ("weight", "bias")
            },
            f"{block}.attention.output.dense.weight": "residual <- (head dim)",
            f"{block}.attention.output.dense.bias": "residual",
            f"{block}.attention.output.LayerNorm.weight": "residual",
            f"{block}.attention.output.LayerNorm.bias": "residual",
            f"{block}.intermediate.dense.weight": "hidden <- residual",
            f"{block}.intermediate.dense.bias": "hidden",
            f"{block}.output.dense.weight": "residual <- hidden",
            f"{block}.output.dense.bias": "residual",
            f"{block}.output.LayerNorm.weight": "residual",
            f"{block}.output.LayerNorm.bias": "residual",
            f"{prefix}pooler.dense.weight": "residual <- residual",
            f"{prefix}pooler.dense.bias": "residual",
            **table,
        },
        probes={
            "residual": Probe(block, "output", "residual"),
            "head": Probe(f"{block}.attention.output.dense", "input", "(head dim)"),
            "hidden": Probe(f"{block}.intermediate.dense", "output", "hidden"),
        },
        inner_sizes=lambda model: {"dim": model.config.hidden_size // model.config.num_attention_heads},
        tied=tied or {},
        points={
            "residual": {
                "branch": (
                    Probe(f"{block}.attention.output.dense", "output", "residual"),
                    Probe(f"{block}.output.dense", "output", "residual"),
                )
            },
            "hidden": {"activation": (Probe(f"{block}.output.dense", "input", "hidden"),)},
        },
        settings=SETTINGS if name == "BERT" else (*SETTINGS, "config.pad_token_id"),  # where RoBERTa's positions begin
        unsupported=unsupported,
        resized=config_sizes,
    )


def dense(layer: str, outputs: str = "residual") -> dict[str, str]:
    return {f"{layer}.weight": f"{outputs} <- residual", f"{layer}.bias": outputs}


def masked_lm(head: str, layer: str, norm: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Rows of a head for masked tokens, and what of it is tied."""
    norms = (f"{head}.{norm}.weight", f"{head}.{norm}.bias")
    table = {f"{head}.bias": "vocab", **dense(f"{head}.{layer}"), **dict.fromkeys(norms, "residual")}
    tied = {f"{head}.decoder.weight": norms, f"{head}.decoder.bias": ()}
    return table | dense(f"{head}.decoder", "vocab"), tied


register(family("BERT", "Model", {}))
register(family("RoBERTa", "Model", {}))
rows, tied = masked_lm("cls.predictions", "transform.dense", "transform.LayerNorm")
register(family("BERT", "ForMaskedLM", rows, "bert.", tied))
rows, tied = masked_lm("lm_head", "dense", "layer_norm")
register(family("RoBERTa", "ForMaskedLM", rows, "roberta.", tied))
for head in ("ForSequenceClassification", "ForTokenClassification"):
    register(family("BERT", head, dense("classifier", "label"), "bert."))
    rows = dense("classifier", "label") | dense("classifier.dense") | dense("classifier.out_proj", "label")
    register(family("RoBERTa", head, rows, "roberta."))
