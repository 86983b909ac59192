"""Hugging Face Gemma, the first: Llama's table, but for the embedding. Selection only.

What is embedded is multiplied by the root of the width, which the arrow of its row undoes: the embedding has the factor
of a layer that reads the stream, and so has the head that is tied to it. The norms multiply by 1 + their weight, which
`principal` does not fold. Gemma 2 and 3 have blocks of several kinds.
"""

from ..axes import Family, register
from . import llama

register(
    Family(
        name="HF Gemma",
        model_class="transformers.models.gemma.modeling_gemma.GemmaForCausalLM",
        table=llama.table() | {f"{name}.weight": "vocab <- residual" for name in ("model.embed_tokens", "lm_head")},
        probes=llama.probes(),
        inner_sizes=lambda model: llama.sizes(model.model),
        scoring_kwargs={"use_cache": False, "logits_to_keep": 1},
        tied={"lm_head.weight": ()},
        points=llama.points(),
        settings=(*llama.SETTINGS, "config.use_bidirectional_attention"),
        resized=llama.resized,
        rotary=llama.rotary,
    )
)
