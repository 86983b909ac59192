"""What a run costs: `python -m subcloning.cost experiment=fig10_gpt2` prints parameters, FLOPs and GPU-hours.

FLOPs are counted on the meta device (see `training.flops`), so nothing is downloaded or computed. A teacher
(distill=parent) costs its forward pass.
"""

import hydra
import torch
from omegaconf import DictConfig

from . import resolvers  # noqa: F401  (for what the config looks up)

UTILISATION = 0.4


@hydra.main(config_path="../../configs", config_name="cost", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from .training.flops import PEAK_FLOPS, flops_per_sample, training_flops
    from .training.initialise import child_of
    from .training.protocols import parent_of

    parent = parent_of(cfg)
    with torch.device("meta"):
        models = {f"parent {parent.name}": parent.child({}), f"child {cfg.destination.name}": child_of(parent, cfg)}
        inputs, tokens = parent.sample(cfg)
        for name, model in models.items():
            count = sum(p.numel() for p in model.parameters())
            per_token = training_flops(model, inputs) / tokens
            print(f"{name}: {count:,} parameters, {per_token:.3g} FLOPs per token to train")
    samples = parent.workload(cfg)
    child, teacher = (samples * flops for flops in flops_per_sample(parent, cfg))
    note = f", {teacher:.3g} of them its teacher's" if teacher else ""
    print(f"one run of the child: {samples * tokens:.3g} tokens, {child + teacher:.3g} FLOPs{note}")
    print(f"GPU-hours at {UTILISATION:.0%} of peak:")
    for gpu, peak in PEAK_FLOPS.items():
        print(f"  {gpu}: {(child + teacher) / peak / UTILISATION / 3600:,.3g}")


if __name__ == "__main__":
    main()
