"""Sentence encoders of Hugging Face transformers: a text's vector is the mean of its tokens' last states."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.text.halves import Halves
from ..errors import SubcloningError
from .distillation import Teacher
from .text import TextParent, TextTask

TEMPERATURE = 0.05  # of cosine similarities, as in SimCSE (Gao et al., arXiv 2104.08821)


def vectors(model: nn.Module, tokens: Tensor) -> Tensor:
    """(texts, length) token ids, none of them padding -> (texts, width) vectors of length 1."""
    return F.normalize(model(tokens).last_hidden_state.mean(1).float(), dim=-1)


def similarities(model: nn.Module, tokens: Tensor) -> Tensor:
    """(texts, texts - 1): each text's cosine similarity to every other one, over `TEMPERATURE`."""
    cosines = (found := vectors(model, tokens)) @ found.T
    others = ~torch.eye(len(tokens), dtype=torch.bool, device=cosines.device)
    return cosines[others].view(len(tokens), -1) / TEMPERATURE


class SentenceEncoder(TextTask):
    """Which half of a paragraph belongs to which? Cross-entropy over the other texts of a batch, in nats.

    With a teacher of weight 1 nothing is learned of that, only the parent's similarities.

    Metrics: `val_loss`, of finding the second half among those of all held-out paragraphs; `val_recall` and
    `val_recall_10`, how often it is the nearest, or among the ten nearest; and with a teacher `val_correlation`, the
    rank correlation of the cosine similarities of all pairs of first halves with the teacher's.
    """

    headline = "val_recall"

    def __init__(self, model: PreTrainedModel, optim: dict, batch_tokens: int, length: int, *, fused: bool = True):
        super().__init__(model, optim, batch_tokens, 2 * length, fused=fused)
        self.seen: list[Tensor] = []  # of the validation that goes on
        self.wanted: list[Tensor] = []  # the teacher's vectors of the same texts, which stay

    def loss(self, tokens: Tensor, teacher: Teacher | None = None) -> Tensor:
        def predict(model):
            return similarities(model, tokens)

        logits = predict(self.model)
        # Without itself among them, the other half of texts 2i and 2i + 1 is number 2i.
        loss = F.cross_entropy(logits, torch.arange(len(tokens), device=tokens.device) // 2 * 2)
        return teacher.loss(loss, logits, predict) if teacher else loss

    def validation_step(self, tokens: Tensor, number: int) -> None:
        self.seen.append(vectors(self.model, tokens))
        if self.teacher and number == len(self.wanted):
            self.wanted.append(vectors(self.teacher.model.to(tokens.device), tokens))

    def on_validation_epoch_end(self) -> None:
        first, second = torch.cat(self.seen).view(-1, 2, self.seen[0].shape[-1]).unbind(1)
        self.seen.clear()
        cosines = first @ second.T
        self.log("val_loss", F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(first), device=cosines.device)))
        nearer = (cosines > cosines.diag()[:, None]).sum(1)
        self.log("val_recall", (nearer < 1).float().mean(), prog_bar=True)
        self.log("val_recall_10", (nearer < 10).float().mean())
        if self.teacher:
            wanted = torch.cat(self.wanted).view(len(first), 2, -1)[:, 0]
            pairs = [(x @ x.T)[*torch.triu_indices(len(x), len(x), 1)] for x in (first, wanted)]
            ranks = torch.stack([x.argsort().argsort().double() for x in pairs])
            self.log("val_correlation", torch.corrcoef(ranks)[0, 1].float())
        super().on_validation_epoch_end()


class SentenceParent(TextParent):
    """A sentence encoder whose children are trained."""

    options: Mapping[str, object] = {"add_pooling_layer": False}

    def __init__(self, name: str, model: dict | None, weights: dict | None, architecture: str = "BertModel"):
        super().__init__(name, model, weights, architecture)

    def scoring_loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Summed cross-entropy of the other half among the other texts of the batch."""
        logits = similarities(model, batch)
        return F.cross_entropy(logits, torch.arange(len(batch), device=batch.device) // 2 * 2, reduction="sum")

    def module(self, model: Any, optim: dict, data: Halves, *, fused: bool) -> SentenceEncoder:
        config = model.config
        if len(data.tokenizer) > config.vocab_size or data.length > config.max_position_embeddings:
            raise SubcloningError(
                f"the data have {len(data.tokenizer)} tokens and texts of {data.length}; parent={self.name} has "
                f"vocab_size={config.vocab_size} and {config.max_position_embeddings} positions: give its tokenizer, "
                "and a length that it can read"
            )
        return SentenceEncoder(model, optim, data.batch_tokens, data.length, fused=fused)

    def sample(self, cfg: DictConfig) -> tuple[dict, int]:
        """(arguments of a forward pass over the halves of one paragraph, their tokens)."""
        length = cfg.data.length
        return {"input_ids": torch.zeros(2, length, dtype=torch.long)}, 2 * length

    def export(self, model: Any, folder: Path, data: Halves) -> None:
        """Save for plain transformers, tokenizer included."""
        model.save_pretrained(folder)
        data.tokenizer.save_pretrained(folder)
