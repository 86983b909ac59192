"""What models of text by Hugging Face transformers share: their parents, and tasks that count tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import DictConfig
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import AutoConfig, PreTrainedModel, get_cosine_schedule_with_warmup

from ..errors import SubcloningError
from ..method.axes import family_of
from .distillation import Teacher
from .fsdp import shard
from .weights import contents, hub_commit, local


class TextTask(LightningModule):
    """A task whose training is counted in tokens; AdamW with a cosine schedule in steps.

    optim: lr, weight_decay, betas, tokens and warmup_tokens, as in `configs/optim/adamw_tokens.yaml`.
    batch_tokens: tokens of one optimiser step, over all ranks and passes.
    sample: tokens of one sample.
    fused: the faster optimiser, which Lightning does not let clip gradients in mixed precision.
    """

    teacher: Teacher | None = None

    def __init__(self, model: PreTrainedModel, optim: dict, batch_tokens: int, sample: int, *, fused: bool = True):
        super().__init__()
        if optim["tokens"] % optim["validate_every"]:
            raise SubcloningError(
                f"tokens={optim['tokens']} must be a multiple of validate_every={optim['validate_every']}"
            )
        self.model, self.optim, self.batch_tokens, self.fused = model, optim, batch_tokens, fused
        self.unit = "tokens", sample
        # A diverged run shows as such. Weights are left out then, so that a metric is given each sample's value.
        self.train_loss = MeanMetric(nan_strategy="disable")

    @property
    def validations(self) -> int:
        return self.optim["tokens"] // self.optim["validate_every"]

    def progress(self, step: int) -> dict[str, float]:
        """What the curve is drawn against."""
        return {"tokens": step * self.batch_tokens}

    def configure_model(self) -> None:
        shard(self, self.model)

    def loss(self, tokens: Tensor, teacher: Teacher | None = None) -> Tensor:
        """Mean over the samples of a batch; with the teacher's share, if there is one."""
        raise NotImplementedError

    def training_step(self, tokens: Tensor) -> Tensor:
        loss = self.loss(tokens, self.teacher)
        self.train_loss.update(loss.detach().expand(len(tokens)))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_end(self) -> None:
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


class TextParent:
    """A model of transformers whose children are trained, as `configs/parent` describes it.

    model: arguments of its config; None for the config that lies with the weights.
    weights: `path` of a local folder, or `name` on the Hub and its `revision`; None for random weights, to try things
        out before anything is downloaded.
    architecture: its class in transformers, for which there must be a `Family`.
    """

    options: Mapping[str, object] = {}  # with which the class is built

    def __init__(self, name: str, model: dict | None, weights: dict | None, architecture: str):
        found: Any = getattr(transformers, architecture, None)
        if found is None:
            raise SubcloningError(f"parent.architecture={architecture}: expected a class of transformers")
        self.name, self.weights, self.architecture = name, {**(weights or {})}, found
        if model is None and not weights:
            raise SubcloningError("parent.model and parent.weights are null: give one of them")
        self.config = found.config_class(**model) if model is not None else self._config()

    def child(self, destination: dict) -> PreTrainedModel:
        """A model of the destination's shape, with the library's own initial weights."""
        with torch.device("meta"):
            parent = self._random(self.config)
        shape = family_of(parent).resized(parent, **destination)
        return self._random(type(self.config).from_dict(self.config.to_dict() | shape))

    def _random(self, config) -> PreTrainedModel:
        return self.architecture(config, **self.options)

    def _config(self) -> Any:
        """The config that lies with the weights."""
        try:
            config = AutoConfig.from_pretrained(self._source, revision=self.weights.get("revision"))
        except (OSError, ValueError) as error:
            raise SubcloningError(f"parent.weights={self.weights} has no config that can be read: {error}") from error
        if self.architecture.__name__ not in (config.architectures or []):
            raise SubcloningError(
                f"parent.weights={self.weights} are of {config.architectures}, not parent.architecture="
                f"{self.architecture.__name__}: set that"
            )
        return config

    @property
    def _source(self) -> str | Path:
        """What transformers reads the weights from."""
        return self.weights["name"] if self.place is None else local(self.place)

    @property
    def place(self) -> str | None:
        """Where the trained weights are on this machine, if they do not come from elsewhere."""
        return self.weights.get("path")

    def trained(self) -> PreTrainedModel:
        if not self.weights:
            return self._random(self.config)
        revision = self.weights.get("revision")
        return self.architecture.from_pretrained(self._source, revision=revision, dtype=torch.float32, **self.options)

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

    def workload(self, cfg: DictConfig) -> float:
        """Samples that a run reads."""
        return cfg.optim.tokens / self.sample(cfg)[1]

    def sample(self, cfg: DictConfig) -> tuple[dict, int]:
        """(arguments of a forward pass over one sample, its tokens)."""
        raise NotImplementedError
