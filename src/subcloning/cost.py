"""What a run costs: `python -m subcloning.cost experiment=fig10_gpt2` prints parameters, FLOPs and GPU-hours.

FLOPs are counted on the meta device (see `training.flops`), so nothing is downloaded or computed. A teacher
(distill=parent) costs its forward pass.
"""

import hydra
import torch
from omegaconf import DictConfig

from . import resolvers  # noqa: F401  (for what the config looks up)
from .training.flops import PEAK_FLOPS, training_flops

UTILISATION = 0.4


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
