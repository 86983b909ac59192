"""FLOPs of training, as torch counts them, what devices can do of them, and how fast a run is.

The backward pass counts twice the forward pass; attention counts in full, without the saving by the causal mask, as is
usual for model FLOP utilisation (arXiv 2204.02311, appendix B).
"""

import time
from functools import cached_property

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .initialise import child_of
from .protocols import Parent

# FLOP/s of dense matrix products in half precision, from NVIDIA's data sheets (SXM modules).
PEAK_FLOPS = {"V100": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}


def training_flops(model: nn.Module, inputs: dict) -> int:
    """FLOPs of one forward and backward pass of `model` over `inputs`, both on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return 3 * counter.get_total_flops()


def flops_per_sample(parent: Parent, cfg: DictConfig) -> tuple[int, float]:
    """What a run computes for each sample: (forward and backward pass of its child, forward pass of its teacher)."""
    with torch.device("meta"):
        inputs, _ = parent.sample(cfg)
        teacher = training_flops(parent.child({}), inputs) / 3 if cfg.get("distill") else 0
        return training_flops(child_of(parent, cfg), inputs), teacher


def peak_flops(device: torch.device) -> float | None:
    """The device's FLOP/s in half precision, where it is in `PEAK_FLOPS`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)


class Throughput(Callback):
    """Tells the logger how fast training was since the last validation; metrics.csv is the same on any machine.

    tokens_per_second of text, samples_per_second of images, over all devices; and mfu, the share of the devices' peak
    FLOP/s that this takes, where the peak is known.
    """

    def __init__(self, parent: Parent, cfg: DictConfig):
        self.parent, self.cfg = parent, cfg

    @cached_property
    def flops(self) -> float:
        return sum(flops_per_sample(self.parent, self.cfg))

    def on_train_start(self, trainer: Trainer, module) -> None:
        self.began = time.perf_counter(), trainer.global_step

    def on_validation_end(self, trainer: Trainer, module) -> None:
        self.began = time.perf_counter(), trainer.global_step

    def on_validation_start(self, trainer: Trainer, module) -> None:
        if trainer.state.fn != "fit" or not trainer.logger:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        start, step = self.began
        steps = (trainer.global_step - step) / (time.perf_counter() - start)
        samples = steps * trainer.datamodule.batch_size  # type: ignore[attr-defined]
        name, size = module.unit
        speed = {f"{name}_per_second": samples * size}
        if peak := peak_flops(module.device):
            speed["mfu"] = samples * self.flops / (peak * trainer.world_size)
        trainer.logger.log_metrics(speed, trainer.global_step)
