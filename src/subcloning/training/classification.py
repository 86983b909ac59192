"""Image classification with a timm model."""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from transformers import get_cosine_schedule_with_warmup


class ImageClassifier(LightningModule):
    """Cross-entropy and top-1 accuracy; AdamW with a cosine schedule in steps.

    optim: lr, weight_decay, betas, epochs and warmup_epochs, as in `configs/optim`.
    steps_per_epoch: optimiser steps, computed from the data and the global batch.
    fused: the faster optimiser, which Lightning does not let clip gradients in mixed precision.
    """

    def __init__(self, model: nn.Module, optim: dict, steps_per_epoch: int, *, fused: bool = True):
        super().__init__()
        self.model, self.optim, self.steps_per_epoch, self.fused = model, optim, steps_per_epoch, fused
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(model.num_classes, average="micro")

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
