"""Image classification with a timm model."""

import os
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from pytorch_lightning import LightningModule
from timm.models import save_for_hf
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from transformers import get_cosine_schedule_with_warmup

from ..axes import SubcloningError
from ..families import vit


class ImageClassifier(LightningModule):
    """Cross-entropy and top-1 accuracy; AdamW with a cosine schedule in steps.

    optim: lr, weight_decay, betas, epochs and warmup_epochs, as in `configs/optim`.
    steps_per_epoch: optimiser steps, computed from the data and the global batch.
    fused: the faster optimiser, which Lightning does not let clip gradients in mixed precision.
    """

    headline = "val_accuracy"

    def __init__(self, model: nn.Module, optim: dict, steps_per_epoch: int, *, fused: bool = True):
        super().__init__()
        self.model, self.optim, self.steps_per_epoch, self.fused = model, optim, steps_per_epoch, fused
        self.val_loss = MeanMetric(nan_strategy="disable")  # a diverged run shows as such
        self.val_accuracy = MulticlassAccuracy(model.num_classes, average="micro")

    @property
    def epochs(self) -> int:
        return self.optim["epochs"]

    def progress(self, step: int) -> dict[str, int]:
        """What the curve is drawn against."""
        return {"epoch": step // self.steps_per_epoch}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self.model(images)
        self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.val_accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val_loss": self.val_loss, "val_accuracy": self.val_accuracy}, prog_bar=True)

    def configure_optimizers(self) -> dict:
        o = self.optim
        # From the bare model: its no-decay names (position and class embeddings) do not match under a wrapper's prefix.
        groups = param_groups_weight_decay(
            self.model, o["weight_decay"], no_weight_decay_list=self.model.no_weight_decay()
        )
        optimiser = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), fused=self.fused)
        warmup, total = o["warmup_epochs"] * self.steps_per_epoch, o["epochs"] * self.steps_per_epoch
        schedule = get_cosine_schedule_with_warmup(optimiser, warmup, total)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TimmParent:
    """A timm model whose children are trained, as `configs/parent` describes it.

    model: arguments of `timm.create_model`. weights: further ones that bring the trained weights.
    """

    def __init__(self, name: str, model: dict, weights: dict):
        self.name, self.model, self.weights = name, model, weights

    def child(self, destination: dict) -> nn.Module:
        """A model of the destination's shape, with the library's own initial weights."""
        with torch.device("meta"):
            parent = timm.create_model(**self.model)
        return timm.create_model(**{**self.model, **vit.resized(parent, **destination)})

    def trained(self) -> nn.Module:
        path = self.weights.get("checkpoint_path")
        if path and not os.path.exists(path):
            raise SubcloningError(
                f"the parent's weights {path} do not exist: train the parent first (see configs/experiment)"
            )
        return timm.create_model(**self.model, **self.weights)

    def module(self, model: nn.Module, optim: dict, data, *, fused: bool) -> ImageClassifier:
        return ImageClassifier(model, optim, data.steps_per_epoch, fused=fused)

    def workload(self, cfg) -> tuple[dict, float, int]:
        """(inputs of one sample, samples of a run, tokens of a sample)."""
        data = instantiate(cfg.data)
        with torch.device("meta"):
            model = self.child({})
        image = torch.zeros(1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
        return {"x": image}, data.steps_per_epoch * data.batch_size * cfg.optim.epochs, model.patch_embed.num_patches

    def export(self, model: nn.Module, folder: Path, data) -> None:
        """Save for plain timm."""
        save_for_hf(model, folder, safe_serialization=True, data_config=data.preprocessing)
