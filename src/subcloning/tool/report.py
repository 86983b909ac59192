"""What is said of a child: beside its parent on the screen, and in its model card."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..method.plan import Plan
from .parents import Checkpoint

CARD = """{front}# {name}

A start, not a finished model: made from {source} by weight subcloning (arXiv 2312.09299), and to be trained
further. Until then it is worse than its parent.

```python
{loading}
```

{facts}

What to expect: in the studies of the project *subcloning*, children took a quarter to twice the learning rate of a
random start, with warm-up, and gained most where training is short. A child of two thirds of SmolLM2-135M's width and
half its depth was, after a tenth of a million tokens, ahead of random weights after a million; made with --no-scale,
by principal directions, it ended best, at a quarter of the others' learning rate. Tune the learning rate.

What was kept, also in plan.safetensors (`subclone inspect`):

```
{plan}
```
"""


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def comparison(parent: nn.Module, child: nn.Module, shape: dict) -> str:
    """Parent and child side by side."""
    rows = [("", "parent", "child"), ("parameters", f"{parameters(parent):,}", f"{parameters(child):,}")]
    rows.append(("FLOPs per sample", f"{flops(parent):.3g}", f"{flops(child):.3g}"))
    for key, value in shape.items():
        config: Any = getattr(parent, "config", None)
        before = getattr(config, key, None) if config else getattr(parent, key, None)
        if isinstance(value, int):
            rows.append((key, "" if before is None else str(before), str(value)))
    return "\n".join(f"{name:<22}{a:>14}{b:>14}" for name, a, b in rows)


def flops(model: Any) -> int:
    """Of a forward pass over one sample: 256 tokens, or an image."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        if hasattr(model, "patch_embed"):
            proj = model.patch_embed.proj
            model(torch.zeros(1, proj.in_channels, *model.patch_embed.img_size))
        elif model.main_input_name == "pixel_values":
            model(torch.zeros(1, model.config.num_channels, *2 * [model.config.image_size]))
        else:
            length = min(256, model.config.max_position_embeddings)
            mask = torch.ones(1, 1, length, length, dtype=torch.bool)
            model(input_ids=torch.zeros(1, length, dtype=torch.long), attention_mask=mask)
    return counter.get_total_flops()


def card(name: str, checkpoint: Checkpoint, parent: nn.Module, child: nn.Module, plan: Plan, facts: dict) -> str:
    """The child's model card. name: its folder's. facts: what else is to be said of it."""
    place = checkpoint.place.removeprefix("local-dir:").removeprefix("hf-hub:")
    here = Path(place).exists()
    source = Path(place).name if here else place
    at = f" at {checkpoint.revision}" if checkpoint.revision else ""
    front = [f"license: {checkpoint.licence}"] if checkpoint.licence else []
    front += [] if here else [f"base_model: {place}"]
    facts = {
        "parameters": f"{parameters(child):,}, of {parameters(parent):,}",
        "licence": checkpoint.licence or "that of the parent, which does not say it",
        "parent's fingerprint": plan.parent,
        **facts,
        "with": ", ".join(f"{package} {version(package)}" for package in ("subcloning", "torch")),
    }
    return CARD.format(
        front="---\n{}\n---\n\n".format("\n".join(front)) if front else "",
        name=name,
        source=source + at,
        loading=checkpoint.loading(Path(name)),
        facts="\n".join(f"- {key}: {value}" for key, value in facts.items()),
        plan=plan,
    )
