"""What a run costs: `python -m subcloning.cost experiment=fig10_gpt2` prints parameters, FLOPs and GPU-hours.

FLOPs are counted by torch on the meta device, so nothing is downloaded or computed. The backward pass counts twice the
forward pass; attention counts in full, without the saving by the causal mask, as is usual for model FLOP utilisation
(arXiv 2204.02311, appendix B). A teacher (distill=parent) costs its forward pass.
"""

import hydra
import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# FLOP/s of dense matrix products in half precision, from NVIDIA's data sheets (SXM modules).
PEAK_FLOPS = {"V100": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}
UTILISATION = 0.4


def training_flops(model: nn.Module, inputs: dict) -> int:
    """FLOPs of one forward and backward pass of `model` over `inputs`, both on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return 3 * counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """The device's FLOP/s in half precision, where it is in `PEAK_FLOPS`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)


@hydra.main(config_path="../../configs", config_name="cost", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    parent = instantiate(cfg.parent, _convert_="all")
    shape = {key: value for key, value in cfg.destination.items() if key != "name"}
    with torch.device("meta"):
        models = {f"parent {parent.name}": parent.child({}), f"child {cfg.destination.name}": parent.child(shape)}
        inputs, samples, tokens = parent.workload(cfg)
        flops = {name: training_flops(model, inputs) for name, model in models.items()}
    for name, model in models.items():
        count = sum(p.numel() for p in model.parameters())
        print(f"{name}: {count:,} parameters, {flops[name] / tokens:.3g} FLOPs per token to train")
    of_parent, of_child = flops.values()
    teachers = of_parent / 3 * samples if cfg.get("distill") else 0
    total = of_child * samples + teachers
    note = f", {teachers:.3g} of them its teacher's" if teachers else ""
    print(f"one run of the child: {samples * tokens:.3g} tokens, {total:.3g} FLOPs{note}")
    print(f"GPU-hours at {UTILISATION:.0%} of peak:")
    for gpu, peak in PEAK_FLOPS.items():
        print(f"  {gpu}: {total / peak / UTILISATION / 3600:,.3g}")


if __name__ == "__main__":
    main()
