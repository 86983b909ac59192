"""Small random models for the tests, every parameter randomised: gains of one and biases of zero hide mistakes."""

import timm
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TEXT = "the quick brown fox jumps over the lazy dog and runs away " * 200


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            centre = 1.0 if "norm" in name or "ln_" in name else 0.0
            parameter.copy_((noise * 0.3 + centre) if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5)
    return model.eval()


def vit(heads=4, head_dim=6, mlp_ratio=2.0, depth=3, distilled=False, seed=0, **kwargs):
    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    options = {"img_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": heads * head_dim, "num_heads": heads}
    model = timm.create_model(name, **options | {"mlp_ratio": mlp_ratio, "depth": depth} | kwargs)
    return randomise(model, seed)


def gpt2(heads=4, head_dim=6, mlp_ratio=2.0, depth=3, seed=0, **kwargs):
    options = {"n_embd": heads * head_dim, "n_head": heads, "n_layer": depth, "n_positions": 16, "vocab_size": 37}
    config = GPT2Config(**options | {"n_inner": int(mlp_ratio * heads * head_dim)} | kwargs)
    return randomise(GPT2LMHeadModel(config), seed)


def llama(heads=4, head_dim=6, mlp_ratio=2.0, depth=3, seed=0, model_type="llama", **kwargs):
    """Of the Llama kind; two query heads to a key/value head."""
    options = {"hidden_size": heads * head_dim, "num_key_value_heads": heads, "num_attention_heads": 2 * heads}
    options |= {"head_dim": head_dim, "num_hidden_layers": depth, "vocab_size": 37, "max_position_embeddings": 16}
    options |= {"intermediate_size": int(mlp_ratio * heads * head_dim), "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(model_type, **options | {"pad_token_id": None} | kwargs)
    return randomise(AutoModelForCausalLM.from_config(config), seed)


def save_tokenizer(folder, text=TEXT):
    """One of 37 tokens, as many as the models have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=37, special_tokens=["<end>"]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)


# Every supported variant: name -> (build, options).
VARIANTS = {
    "vit": (vit, {}),
    "vit_avg": (vit, {"global_pool": "avg", "class_token": False}),
    "vit_no_qkv_bias": (vit, {"qkv_bias": False}),
    "vit_layer_scale": (vit, {"init_values": 0.1}),
    "vit_registers": (vit, {"reg_tokens": 2, "no_embed_class": True}),
    "vit_qk_norm": (vit, {"qk_norm": True}),
    "vit_pre_norm": (vit, {"pre_norm": True}),
    "deit_distilled": (vit, {"distilled": True}),
    "gpt2": (gpt2, {}),
    "gpt2_untied": (gpt2, {"tie_word_embeddings": False}),
    "llama": (llama, {"attention_bias": True, "mlp_bias": True}),
    "llama_tied": (llama, {"tie_word_embeddings": True}),
    "mistral": (llama, {"model_type": "mistral"}),
    "qwen2": (llama, {"model_type": "qwen2"}),
    "qwen3": (llama, {"model_type": "qwen3", "tie_word_embeddings": True}),
}


def inputs(model, batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if hasattr(model, "patch_embed"):
        return torch.randn(batch, 3, *model.patch_embed.img_size, generator=generator)
    return torch.randint(model.config.vocab_size, (batch, 10), generator=generator)


def outputs(model, x):
    with torch.no_grad():
        out = model(x)
    return out.logits if hasattr(out, "logits") else out
