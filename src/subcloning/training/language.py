"""Next-token prediction with Hugging Face GPT-2."""

import shutil
import time
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..errors import SubcloningError
from ..method.families import gpt2
from .distillation import Teacher
from .flops import peak_flops, training_flops
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

    def __init__(self, model: GPT2LMHeadModel, optim: dict, batch_tokens: int, context: int, *, fused: bool = True):
        super().__init__()
        if optim["tokens"] % optim["validate_every"]:
            raise SubcloningError(
                f"tokens={optim['tokens']} must be a multiple of validate_every={optim['validate_every']}"
            )
        self.model, self.optim, self.batch_tokens, self.fused = model, optim, batch_tokens, fused
        self.context = context
        model.set_attn_implementation(CAUSAL)  # is not saved with the model
        # A diverged run shows as such. Weights are left out then, so that a metric is given each block's value.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_loss = MeanMetric(nan_strategy="disable")

    @property
    def validations(self) -> int:
        return self.optim["tokens"] // self.optim["validate_every"]

    @cached_property
    def flops_per_token(self) -> float:
        """Of a training step: forward and backward through the child, forward through its teacher."""

        def flops(config: GPT2Config) -> float:
            return training_flops(GPT2LMHeadModel(config), _sample(self.context)) / self.context

        with torch.device("meta"):
            teacher = flops(self.teacher.model.config) / 3 if self.teacher else 0
            return flops(self.model.config) + teacher

    def progress(self, step: int) -> dict[str, int]:
        """What the curve is drawn against."""
        return {"tokens": step * self.batch_tokens}

    def configure_model(self) -> None:
        shard(self, [(self.model, self.model.transformer.h)])

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

    def on_train_start(self) -> None:
        self.started = time.perf_counter(), self.trainer.global_step

    def on_validation_end(self) -> None:
        self.started = time.perf_counter(), self.trainer.global_step

    def on_validation_epoch_start(self) -> None:
        """Speed of the training since the last validation: tokens/s, and its share of what the devices could do."""
        if self.trainer.state.fn != "fit":
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start, step = self.started
        speed = (self.trainer.global_step - step) * self.batch_tokens / (time.perf_counter() - start)
        self.log("tokens_per_second", speed, prog_bar=True)
        if peak := peak_flops(self.device):
            self.log("mfu", speed * self.flops_per_token / (peak * self.trainer.world_size), prog_bar=True)

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

    def configure_optimizers(self) -> dict:
        o = self.optim
        # Norms and biases are spared by their shape. The token embedding is decayed: tied, it is the head's matrix.
        groups = param_groups_weight_decay(
            self.model, o["weight_decay"], no_weight_decay_list=["transformer.wpe.weight"]
        )
        optimiser = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), fused=self.fused)
        warmup, total = (round(o[key] / self.batch_tokens) for key in ("warmup_tokens", "tokens"))
        schedule = get_cosine_schedule_with_warmup(optimiser, warmup, total)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class GPT2Parent:
    """A GPT-2 whose children are trained, as `configs/parent` describes it.

    model: arguments of `GPT2Config`. weights: `path` of a local folder, or `name` on the Hub and its `revision`; None
    for random weights, to try things out before anything is downloaded.
    """

    def __init__(self, name: str, model: dict, weights: dict | None):
        self.name, self.config, self.weights = name, GPT2Config(**model), {**(weights or {})}

    def child(self, destination: dict) -> GPT2LMHeadModel:
        """A model of the destination's shape, with the library's own initial weights."""
        shape = gpt2.resized(self.config, **destination)
        return GPT2LMHeadModel(GPT2Config.from_dict(self.config.to_dict() | shape))

    @property
    def place(self) -> str | None:
        """Where the trained weights are on this machine, if they do not come from elsewhere."""
        return self.weights.get("path")

    def trained(self) -> GPT2LMHeadModel:
        if not self.weights:
            return GPT2LMHeadModel(self.config)
        place = self.weights["name"] if self.place is None else local(self.place)
        return GPT2LMHeadModel.from_pretrained(place, revision=self.weights.get("revision"), dtype=torch.float32)

    def contents(self) -> dict:
        """What tells the trained weights from others: `sha256` of files here; `commit` of those on the Hub, which are
        downloaded for it."""
        if not self.weights or self.place is not None:
            return contents(self.place) if self.weights else {}
        self.trained()
        return {"hub": self.weights["name"], "commit": hub_commit(self.weights["name"], self.weights.get("revision"))}

    def hold(self, contents: dict) -> None:
        """From now on, `trained` is of that commit."""
        if contents.get("commit"):
            self.weights["revision"] = contents["commit"]

    def scoring_loss(self, model: GPT2LMHeadModel, tokens: Tensor) -> Tensor:
        """Summed cross-entropy of the next token."""
        return model(tokens, labels=tokens, use_cache=False).loss * tokens.numel()

    def module(self, model: GPT2LMHeadModel, optim: dict, data, *, fused: bool) -> LanguageModel:
        config, manifest = model.config, data.corpus.manifest
        if manifest["vocab_size"] > config.vocab_size or manifest["end_of_text"] != config.eos_token_id:
            raise SubcloningError(
                f"{data.corpus.folder} has {manifest['vocab_size']} tokens and ends texts by "
                f"{manifest['end_of_text']}; parent={self.name} has vocab_size={config.vocab_size} and "
                f"eos_token_id={config.eos_token_id}: choose a parent and data that share a tokenizer"
            )
        if data.context > config.n_positions:
            raise SubcloningError(
                f"context={data.context} is more than the model's n_positions={config.n_positions}: shorten it"
            )
        return LanguageModel(model, optim, data.batch_tokens, data.context, fused=fused)

    def workload(self, cfg) -> tuple[dict, float, int]:
        """(inputs of one sample, samples of a run, tokens of a sample)."""
        return _sample(cfg.data.context), cfg.optim.tokens / cfg.data.context, cfg.data.context

    def export(self, model: GPT2LMHeadModel, folder: Path, data) -> None:
        """Save for plain transformers, tokenizer included."""
        model.save_pretrained(folder)
        shutil.copytree(data.corpus.folder / "tokenizer", folder, dirs_exist_ok=True)


def _sample(context: int) -> dict:
    """Inputs of one sequence on the default device. A full mask, since building one reads values."""
    mask = torch.ones(1, 1, context, context, dtype=torch.bool)
    return {"input_ids": torch.zeros(1, context, dtype=torch.long), "attention_mask": mask, "use_cache": False}
