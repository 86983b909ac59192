"""Image classification with a timm model."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.models import save_for_hf
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from ..data.images.augment import BatchTransform
from ..data.images.datamodule import ImageData
from ..errors import SubcloningError
from ..method.axes import family_of
from .distillation import Teacher
from .fsdp import shard
from .weights import contents, hub_commit, local


class ImageClassifier(LightningModule):
    """Cross-entropy, top-1 and, from more than ten classes, top-5 accuracy; AdamW with a cosine schedule in steps.

    The same metrics of the averaged weights, where the recipe asks for them, are called `val_ema_*`.

    optim: lr, weight_decay, betas, epochs, warmup_epochs and final_lr, as in `configs/optim`.
    transform: what is done to batches. steps_per_epoch: optimiser steps, from the data and the global batch.
    fused: the faster optimiser, which Lightning does not let clip gradients in mixed precision.
    """

    metrics: Any  # an nn.ModuleDict of such, by prefix and name
    headline = "val_accuracy"
    unit = "samples", 1
    teacher: Teacher | None = None

    def __init__(
        self,
        model: Any,
        optim: dict,
        transform: BatchTransform,
        steps_per_epoch: int,
        validations_per_epoch: int = 1,
        *,
        fused: bool = True,
    ):
        super().__init__()
        self.model, self.optim, self.transform, self.fused = model, optim, transform, fused
        self.steps_per_epoch, self.validations_per_epoch = steps_per_epoch, validations_per_epoch
        decay = transform.recipe.ema_decay
        self.ema = ModelEmaV3(model, decay).requires_grad_(False) if decay else None
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.metrics = nn.ModuleDict({"val": _metrics(model.num_classes)})
        if self.ema:
            self.metrics["val_ema"] = _metrics(model.num_classes)

    @property
    def validations(self) -> int:
        return self.optim["epochs"] * self.validations_per_epoch

    def progress(self, step: int) -> dict[str, float]:
        """What the curve is drawn against."""
        epoch = step / self.steps_per_epoch
        return {"epoch": int(epoch) if epoch.is_integer() else round(epoch, 4)}

    def setup(self, stage: str) -> None:
        if self.ema:
            self.ema.set(self.model)  # which has been subcloned since; a checkpoint is loaded after this

    def configure_model(self) -> None:
        shard(self, self.model, *([self.ema.module] if self.ema else []))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = self.transform(*batch)
        # Mixed targets are smoothed already.
        smoothing = 0.0 if targets.is_floating_point() else self.transform.recipe.label_smoothing
        logits = self.model(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if self.teacher:
            loss = self.teacher.loss(loss, logits, lambda model: model(images))
        self.train_loss.update(loss.detach().expand(len(images)))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema:  # here, so that a checkpoint at the end of the step has it
            self.ema.update(self.model)

    def validation_step(self, batch: tuple[tuple[Tensor, Tensor], bool]) -> None:
        (images, labels), counted = batch
        images = self.transform.normalised(images)
        models = {"val": self.model, "val_ema": self.ema}
        for name, metrics in self.metrics.items():
            logits = models[name](images)
            if not counted:
                continue
            metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
            for kind, metric in metrics.items():
                if kind != "loss":
                    metric.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        for prefix, metrics in self.metrics.items():
            for name, metric in metrics.items():
                self.log(f"{prefix}_{name}", metric, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        o = self.optim
        # From the bare model: its no-decay names (position and class embeddings) do not match under a wrapper's prefix.
        groups = param_groups_weight_decay(
            self.model, o["weight_decay"], no_weight_decay_list=self.model.no_weight_decay()
        )
        optimiser = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), fused=self.fused)
        warmup, total = (round(o[key] * self.steps_per_epoch) for key in ("warmup_epochs", "epochs"))
        schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimiser, warmup, total, min_lr_rate=o.get("final_lr", 0.0)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _metrics(classes: int) -> nn.ModuleDict:
    metrics = {
        # A diverged run shows as such. Weights are left out then, so that a metric is given each image's value.
        "loss": MeanMetric(nan_strategy="disable"),
        "accuracy": MulticlassAccuracy(classes, average="micro"),
    }
    if classes > 10:
        metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
    return nn.ModuleDict(metrics)


class TimmParent:
    """A timm model whose children are trained, as `configs/parent` describes it.

    model: arguments of `timm.create_model`. weights: further ones that bring the trained weights, `checkpoint_path` or
        `pretrained`, which `pretrained_cfg_overlay: {hf_hub_id: NAME@COMMIT}` holds to one commit of the Hub; None for
        random weights, to try things out before anything is downloaded.
    new_head: for classes that the pretrained weights do not know; the child begins with a random head too.
    """

    def __init__(self, name: str, model: dict, weights: dict | None, *, new_head: bool = False):
        self.name, self.model, self.weights, self.new_head = name, model, {**(weights or {})}, new_head

    def child(self, destination: dict) -> nn.Module:
        """A model of the destination's shape, with the library's own initial weights."""
        parent: Any
        with torch.device("meta"):
            parent = timm.create_model(**self.model)
        known: Any = timm.get_pretrained_cfg(self.model["model_name"])
        if self.weights.get("pretrained") and known.num_classes != parent.num_classes and not self.new_head:
            raise SubcloningError(
                f"parent={self.name} knows {known.num_classes} classes and num_classes is {parent.num_classes}: "
                "fine-tune it first and give its checkpoint, or set parent.new_head=true for a random head"
            )
        size, patch = parent.patch_embed.img_size, parent.patch_embed.patch_size
        if any(pixels % p for pixels, p in zip(size, patch, strict=True)):
            raise SubcloningError(f"parent={self.name}: images of {size} are not a whole number of patches of {patch}")
        return timm.create_model(**{**self.model, **family_of(parent).resized(parent, **destination)})

    @property
    def place(self) -> str | None:
        """Where the trained weights are on this machine, if they do not come from elsewhere."""
        return self.weights.get("checkpoint_path")

    def trained(self) -> nn.Module:
        if self.place:
            local(self.place)  # must be there
        return timm.create_model(**self.model, **self.weights)

    def contents(self) -> dict:
        """What tells the trained weights from others: `sha256` of files here; `commit` of those on the Hub, which are
        downloaded for it."""
        if self.place:
            return contents(self.place)
        if not self.weights.get("pretrained"):
            return {}
        model: Any = self.trained()
        repository, _, revision = (model.pretrained_cfg.get("hf_hub_id") or "").partition("@")
        return {"hub": repository, "commit": repository and hub_commit(repository, revision or None)}

    def hold(self, contents: dict) -> None:
        """From now on, `trained` is of that commit."""
        if contents.get("commit"):
            overlay = self.weights.get("pretrained_cfg_overlay") or {}
            self.weights["pretrained_cfg_overlay"] = overlay | {"hf_hub_id": f"{contents['hub']}@{contents['commit']}"}

    def scoring_loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Summed cross-entropy against the model's own prediction: images that score a parent come without labels."""
        logits = model(batch)
        return F.cross_entropy(logits, logits.argmax(-1), reduction="sum")

    def module(self, model: Any, optim: dict, data: ImageData, *, fused: bool) -> ImageClassifier:
        if len(data.classes) != model.num_classes:
            raise SubcloningError(
                f"the data have {len(data.classes)} classes and parent={self.name} {model.num_classes}: set "
                "parent.model.num_classes, and use weights with such a head"
            )
        size = _input_size(model)
        if tuple(data.preprocessing["input_size"]) != size:
            raise SubcloningError(
                f"the data are {tuple(data.preprocessing['input_size'])} and parent={self.name} takes {size}: set "
                "parent.model.img_size and in_chans"
            )
        steps = data.steps_per_epoch, data.validations_per_epoch
        return ImageClassifier(model, optim, data.transform, *steps, fused=fused)

    def sample(self, cfg: DictConfig) -> tuple[dict, int]:
        """(arguments of a forward pass over one image, its patches)."""
        model: Any
        with torch.device("meta"):
            model = self.child({})
        return {"x": torch.zeros(1, *_input_size(model))}, model.patch_embed.num_patches

    def workload(self, cfg: DictConfig) -> float:
        """Images that a run reads."""
        images = cfg.data.get("train_images") or len(instantiate(cfg.data).train)
        return images // cfg.optim.batch_size * cfg.optim.batch_size * cfg.optim.epochs

    def export(self, model: nn.Module, folder: Path, data: ImageData) -> None:
        """Save for plain timm."""
        save_for_hf(model, str(folder), safe_serialization=True, data_config=data.preprocessing)


def _input_size(model: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a timm model takes."""
    return model.patch_embed.proj.in_channels, *model.patch_embed.img_size
