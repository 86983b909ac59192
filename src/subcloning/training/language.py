"""Next-token prediction with a causal language model of Hugging Face transformers."""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from omegaconf import DictConfig
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import AttentionInterface, PreTrainedModel, get_cosine_schedule_with_warmup
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..data.text.datamodule import TextData
from ..errors import SubcloningError
from ..method.axes import family_of
from .distillation import Teacher
from .fsdp import shard
from .weights import contents, hub_commit, local

# Blocks of text need no mask but the causal one. Under its own name "sdpa" finds that out from the position ids at each
# step, which waits for the GPU; compiled, it builds the mask, and with a mask there is no flash attention.
CAUSAL = "sdpa_causal"
AttentionInterface.register(CAUSAL, sdpa_attention_forward)


class LanguageModel(LightningModule):
    """Mean cross-entropy of the next token, in nats, and perplexity; AdamW with a cosine schedule in steps.

    optim: lr, weight_decay, betas, tokens and warmup_tokens, as in `configs/optim/adamw_tokens.yaml`.
    batch_tokens: tokens of one optimiser step, over all ranks and passes.
    context: tokens of one sequence.
    fused: the faster optimiser, which Lightning does not let clip gradients in mixed precision.
    """

    headline = "val_perplexity"
    teacher: Teacher | None = None

    def __init__(self, model: PreTrainedModel, optim: dict, batch_tokens: int, context: int, *, fused: bool = True):
        super().__init__()
        if optim["tokens"] % optim["validate_every"]:
            raise SubcloningError(
                f"tokens={optim['tokens']} must be a multiple of validate_every={optim['validate_every']}"
            )
        self.model, self.optim, self.batch_tokens, self.fused = model, optim, batch_tokens, fused
        self.unit = "tokens", context
        model.set_attn_implementation(CAUSAL)  # is not saved with the model
        # A diverged run shows as such. Weights are left out then, so that a metric is given each block's value.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_loss = MeanMetric(nan_strategy="disable")

    @property
    def validations(self) -> int:
        return self.optim["tokens"] // self.optim["validate_every"]

    def progress(self, step: int) -> dict[str, float]:
        """What the curve is drawn against."""
        return {"tokens": step * self.batch_tokens}

    def configure_model(self) -> None:
        shard(self, self.model)

    def loss(self, tokens: Tensor, teacher: Teacher | None = None) -> Tensor:
        def predict(model):
            return model(tokens[:, :-1], use_cache=False).logits

        logits = predict(self.model)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        return teacher.loss(loss, logits, predict) if teacher else loss

    def training_step(self, tokens: Tensor) -> Tensor:
        loss = self.loss(tokens, self.teacher)
        self.train_loss.update(loss.detach().expand(len(tokens)))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, bool]) -> None:
        tokens, counted = batch
        loss = self.loss(tokens)
        if counted:
            self.val_loss.update(loss.expand(len(tokens)))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.val_loss)
        self.log("val_perplexity", self.val_loss.compute().exp(), prog_bar=True)
        if self.logger:  # an axis to draw against; metrics.csv has it exactly, by `progress`
            step = self.trainer.global_step
            self.logger.log_metrics(self.progress(step), step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        o = self.optim
        # Norms and biases are spared by their shape. The token embedding is decayed: tied, it is the head's matrix.
        positions = [name for name, (_, layout) in family_of(self.model).rows.items() if "token" in layout.axes]
        groups = param_groups_weight_decay(self.model, o["weight_decay"], no_weight_decay_list=positions)
        optimiser = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), fused=self.fused)
        warmup, total = (round(o[key] / self.batch_tokens) for key in ("warmup_tokens", "tokens"))
        schedule = get_cosine_schedule_with_warmup(optimiser, warmup, total)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LanguageParent:
    """A language model whose children are trained, as `configs/parent` describes it.

    model: arguments of its config. weights: `path` of a local folder, or `name` on the Hub and its `revision`; None for
        random weights, to try things out before anything is downloaded.
    architecture: its class in transformers, for which there must be a `Family`.
    """

    def __init__(self, name: str, model: dict, weights: dict | None, architecture: str = "GPT2LMHeadModel"):
        self.architecture: Any = getattr(transformers, architecture, None)
        if self.architecture is None:
            raise SubcloningError(f"parent.architecture={architecture}: expected a class of transformers")
        self.name, self.weights = name, {**(weights or {})}
        self.config = self.architecture.config_class(**model)

    def child(self, destination: dict) -> PreTrainedModel:
        """A model of the destination's shape, with the library's own initial weights."""
        with torch.device("meta"):
            parent = self.architecture(self.config)
        shape = family_of(parent).resized(parent, **destination)
        return self.architecture(type(self.config).from_dict(self.config.to_dict() | shape))

    @property
    def place(self) -> str | None:
        """Where the trained weights are on this machine, if they do not come from elsewhere."""
        return self.weights.get("path")

    def trained(self) -> PreTrainedModel:
        if not self.weights:
            return self.architecture(self.config)
        place = self.weights["name"] if self.place is None else local(self.place)
        return self.architecture.from_pretrained(place, revision=self.weights.get("revision"), dtype=torch.float32)

    def contents(self) -> dict:
        """What tells the trained weights from others: `sha256` of files here; `commit` of those on the Hub, which are
        downloaded for it."""
        if self.place is not None:
            return contents(self.place)
        if not self.weights:
            return {}
        self.trained()
        return {"hub": self.weights["name"], "commit": hub_commit(self.weights["name"], self.weights.get("revision"))}

    def hold(self, contents: dict) -> None:
        """From now on, `trained` is of that commit."""
        if contents.get("commit"):
            self.weights["revision"] = contents["commit"]

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

    def workload(self, cfg: DictConfig) -> float:
        """Sequences that a run reads."""
        return cfg.optim.tokens / cfg.data.context

    def export(self, model: Any, folder: Path, data: TextData) -> None:
        """Save for plain transformers, tokenizer included."""
        model.save_pretrained(folder)
        shutil.copytree(data.corpus.folder / "tokenizer", folder, dirs_exist_ok=True)


def _sample(context: int) -> dict:
    """Inputs of one sequence on the default device. A full mask, since building one reads values."""
    mask = torch.ones(1, 1, context, context, dtype=torch.bool)
    return {"input_ids": torch.zeros(1, context, dtype=torch.long), "attention_mask": mask, "use_cache": False}
