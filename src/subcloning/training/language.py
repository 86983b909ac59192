"""Next-token prediction with a causal language model of Hugging Face transformers."""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..data.text.datamodule import TextData
from ..errors import SubcloningError
from .distillation import Teacher
from .text import TextParent, TextTask

# Blocks of text need no mask but the causal one. Under its own name "sdpa" finds that out from the position ids at each
# step, which waits for the GPU; compiled, it builds the mask, and with a mask there is no flash attention.
CAUSAL = "sdpa_causal"
AttentionInterface.register(CAUSAL, sdpa_attention_forward)


class LanguageModel(TextTask):
    """Mean cross-entropy of the next token, in nats, and perplexity. A sample has `context` tokens."""

    headline = "val_perplexity"

    def __init__(self, model: PreTrainedModel, optim: dict, batch_tokens: int, context: int, *, fused: bool = True):
        super().__init__(model, optim, batch_tokens, context, fused=fused)
        model.set_attn_implementation(CAUSAL)  # is not saved with the model
        self.val_loss = MeanMetric(nan_strategy="disable")

    def loss(self, tokens: Tensor, teacher: Teacher | None = None) -> Tensor:
        def predict(model):
            return model(tokens[:, :-1], use_cache=False).logits

        logits = predict(self.model)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        return teacher.loss(loss, logits, predict) if teacher else loss

    def validation_step(self, batch: tuple[Tensor, bool]) -> None:
        tokens, counted = batch
        loss = self.loss(tokens)
        if counted:
            self.val_loss.update(loss.expand(len(tokens)))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.val_loss)
        self.log("val_perplexity", self.val_loss.compute().exp(), prog_bar=True)
        super().on_validation_epoch_end()


class LanguageParent(TextParent):
    """A causal language model whose children are trained."""

    def __init__(self, name: str, model: dict | None, weights: dict | None, architecture: str = "GPT2LMHeadModel"):
        super().__init__(name, model, weights, architecture)

    def scoring_loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Summed cross-entropy of the next token."""
        return model(batch, labels=batch, use_cache=False).loss * batch.numel()

    def module(self, model: Any, optim: dict, data: TextData, *, fused: bool) -> LanguageModel:
        config, manifest = model.config, data.corpus.manifest
        if manifest["vocab_size"] > config.vocab_size or manifest["end_of_text"] != config.eos_token_id:
            raise SubcloningError(
                f"{data.corpus.folder} has {manifest['vocab_size']} tokens and ends texts by "
                f"{manifest['end_of_text']}; parent={self.name} has vocab_size={config.vocab_size} and "
                f"eos_token_id={config.eos_token_id}: choose a parent and data that share a tokenizer"
            )
        if data.context > (most := config.max_position_embeddings):
            raise SubcloningError(f"context={data.context} is more than the model's {most} positions: shorten it")
        return LanguageModel(model, optim, data.batch_tokens, data.context, fused=fused)

    def sample(self, cfg: DictConfig) -> tuple[dict, int]:
        """(arguments of a forward pass over one sequence, its tokens)."""
        return _sample(cfg.data.context), cfg.data.context

    def export(self, model: Any, folder: Path, data: TextData) -> None:
        """Save for plain transformers, tokenizer included."""
        model.save_pretrained(folder)
        shutil.copytree(data.corpus.folder / "tokenizer", folder, dirs_exist_ok=True)


def _sample(context: int) -> dict:
    """Inputs of one sequence on the default device. A full mask, since building one reads values."""
    mask = torch.ones(1, 1, context, context, dtype=torch.bool)
    return {"input_ids": torch.zeros(1, context, dtype=torch.long), "attention_mask": mask, "use_cache": False}
