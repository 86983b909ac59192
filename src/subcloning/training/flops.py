"""FLOPs of training, as torch counts them, and what a device could do of them.

The backward pass counts twice the forward pass; attention counts in full, without the saving by the causal mask, as is
usual for model FLOP utilisation (arXiv 2204.02311, appendix B).
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# FLOP/s of dense matrix products in half precision, from NVIDIA's data sheets (SXM modules).
PEAK_FLOPS = {"V100": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}


def training_flops(model: nn.Module, inputs: dict) -> int:
    """FLOPs of one forward and backward pass of `model` over `inputs`, both on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return 3 * counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """The device's FLOP/s in half precision, where it is in `PEAK_FLOPS`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
