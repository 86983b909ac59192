"""The beginning of a run: all ranks score, rank 0 subclones, and every rank has the same weights."""

import copy
import hashlib
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from torch import nn

from ..errors import SubcloningError
from ..method.controls import keep_only, match_spread
from ..method.matching import SCORED, rules_of
from ..method.plan import Plan, make_plan
from ..method.refit import refit
from ..method.scores import Scores
from ..method.scoring import score
from ..method.surgery import apply_plan
from ..method.weights import score_weights
from .protocols import Data, Parent
from .ranks import broadcast_weights, from_rank_zero
from .record import plan_table, wandb_run_of


def child_of(parent: Parent, cfg: DictConfig) -> nn.Module:
    """A model of the run's shape (configs/destination), as the library initialises it."""
    return parent.child({key: value for key, value in cfg.destination.items() if key != "name"})


class Start(Callback):
    """Fills a new run's model from the parent, as `cfg.init` says, when the ranks know of each other.

    Not for a run that goes on: its weights are in the checkpoint.
    """

    def __init__(self, cfg: DictConfig, parent: Parent, data: Data, folder: Path):
        self.cfg, self.parent, self.data, self.folder = cfg, parent, data, folder

    def setup(self, trainer: Trainer, module, stage: str) -> None:
        if stage != "validate":  # which comes first
            return
        model, init = module.model, self.cfg.init
        if init.select:
            parent, scores = None, None
            if rules_of(init.select) & {*SCORED} or init.blocks == "least":
                parent = self.parent.trained()
                scores = self._scores(trainer, parent)
            from_rank_zero(self._subclone, trainer, parent, model, scores)
        if trainer.world_size > 1:
            broadcast_weights(model, trainer.strategy.root_device)
            assert_same_weights(model)

    def _subclone(self, trainer: Trainer, parent: nn.Module | None, model: nn.Module, scores: Scores | None) -> None:
        """On rank 0: fill `model`, and leave the plan."""
        parent = parent or self.parent.trained()
        plan = subcloned(self.cfg.init, parent, model, scores, self.cfg.seed, self.data)
        plan.save(self.folder / "plan.safetensors")
        if wandb_run := wandb_run_of(trainer):
            wandb_run.log({"plan": plan_table(plan)})

    def _scores(self, trainer: Trainer, parent: nn.Module) -> Scores:
        """From the data that all ranks together read once. Only this is worth the device."""
        init = self.cfg.init
        if init.score.statistic == "weights":
            return score_weights(parent)
        batches = self.data.scoring_batches(trainer.global_rank, trainer.world_size)
        scores = score(
            parent.to(trainer.strategy.root_device),
            batches,
            statistic=init.score.statistic,
            points=init.score.points,
            loss=self.parent.scoring_loss if init.score.statistic == "taylor" else None,
            stream="principal" in rules_of(init.select),
        )
        parent.cpu()
        scores = scores.merge_ranks() if trainer.world_size > 1 else scores
        return scores.normalised() if init.score.normalised else scores


def subcloned(
    init: DictConfig, parent: nn.Module, child: nn.Module, scores: Scores | None, seed: int, data: Data
) -> Plan:
    """Fill `child` as `init` (configs/init) says; return what was kept."""
    if init.scale not in (True, False, "measured"):
        raise SubcloningError(f"init.scale={init.scale!r}: expected true, false or measured")
    fresh = None if init.keep == "all" else copy.deepcopy(child)
    plan = make_plan(parent, child, scores, select=init.select, blocks=init.blocks, seed=seed)
    apply_plan(plan, parent, child, scale=bool(init.scale), scale_tied=init.scale_tied)
    if init.scale == "measured":
        match_spread(plan, parent, child, next(iter(data.scoring_batches())))
    if init.refit:
        refit(plan, parent, child, data.scoring_batches())
    if fresh:
        keep_only(init.keep, child, fresh, seed)
    return plan


def assert_same_weights(model: nn.Module) -> None:
    """Raise unless all ranks of the default process group hold the same values."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    found = [""] * dist.get_world_size()
    dist.all_gather_object(found, digest.hexdigest())
    if len(set(found)) != 1:
        raise SubcloningError(f"the ranks begin with different weights (checksums {found}): do all run the same code?")
    if dist.get_rank() == 0:
        print(f"{len(found)} ranks begin with the same weights, {found[0][:16]}", flush=True)
