"""What is measured of a trained parent, by running it; nothing is trained. The figures of it are in `parents`."""

from functools import partial

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from ..method.anatomy import Anatomy
from ..method.observe import Call, hooked
from ..method.scoring import score
from ..training.run import quieten
from .parents import unit_table

# What a block puts out instead.
CHANGES = {"removed": lambda call: call.input, "duplicated": lambda call: call.again(call.output)}


def measure_units(cfg: DictConfig) -> pd.DataFrame:
    """Scores of the parent of `cfg` (configs/train.yaml), as `unit_table`."""
    model = instantiate(cfg.parent, _convert_="all").trained()
    return unit_table(score(model, instantiate(cfg.data, _convert_="all").scoring_batches(0, 1)))


def measure_blocks(cfg: DictConfig) -> pd.DataFrame:
    """What each block of the parent of `cfg` does, on its validation data; nothing is trained.

    Columns: block; share, the mean over tokens of |f(x)| / |x + f(x)|; loss, of the whole parent; removed and
    duplicated, the loss where this block is left out, or applied twice.
    """
    quieten()
    parent = instantiate(cfg.parent, _convert_="all")
    data = instantiate(cfg.data, _convert_="all")
    model = parent.trained()
    module = parent.module(model, OmegaConf.to_container(cfg.optim, resolve=True), data, fused=False)
    anatomy = Anatomy(model)
    template = anatomy.family.probe("residual", anatomy.model).module
    blocks = [template.format(block=i) for i in range(anatomy.depth)]
    trainer = Trainer(**instantiate(cfg.trainer), logger=False, enable_progress_bar=False, enable_model_summary=False)

    def loss() -> float:
        trainer.validate(module, data, verbose=False)
        return trainer.callback_metrics["val_loss"].item()

    shares: list[list[float]] = [[] for _ in blocks]

    def measure(share: list[float], call: Call) -> None:
        x, y = call.input, call.output
        share.append(((y - x).norm(dim=-1) / y.norm(dim=-1)).mean().item())

    with hooked(model, [(block, partial(measure, share)) for block, share in zip(blocks, shares, strict=True)]):
        whole = loss()
    rows = []
    for i, block in enumerate(blocks):
        row = {"block": i, "share": float(np.mean(shares[i])), "loss": whole}
        for name, change in CHANGES.items():
            with hooked(model, [(block, change)]):
                row[name] = loss()
        rows.append(row)
    return pd.DataFrame(rows)
