"""One run, from config to summary. Start-up order: own last checkpoint, else the parent, else random weights."""

import logging
import os
import shutil
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment

from ..data.batches import accumulation, seed_all
from ..data.images.augment import refuse_idle_recipe
from ..files import atomic
from ..method.plan import make_plan
from .distillation import Teacher
from .flops import Throughput
from .folder import Begun, claimed, uses_parent
from .initialise import Start, child_of
from .interruptions import LAST, PREVIOUS, SafeCheckpoints, StopAtStep
from .protocols import Data, Parent, Task, data_of, offering, parent_of
from .ranks import from_rank_zero, start_ranks
from .record import History, own_config, provenance, record_start, wandb_id, wandb_run_of, write_json


def run(cfg: DictConfig) -> dict:
    """Train what `cfg` (configs/train.yaml) describes, or resume it, and return its summary.

    In the run's folder: config.yaml, provenance.json, plan.safetensors, metrics.csv, last.ckpt, model/ (which plain
    timm or transformers loads; model_ema/ has the averaged weights) and, last, summary.json. A folder with a summary is
    done. One job works there at a time, and others wait. Of several ranks, rank 0 decides what is to be done.
    """
    refuse_idle_recipe(cfg)
    quieten()
    folder = Path(cfg.run_dir)
    history = History(folder / "metrics.csv")
    with StopAtStep(folder) as stop, ExitStack() as held:
        trainer = _trainer(cfg, folder, [history, stop])
        start_ranks(trainer)
        begun = from_rank_zero(lambda: held.enter_context(claimed(folder, cfg, stop)))
        if begun.summary:
            if begun.moved:
                begun.same_data(data_of(cfg).provenance)
            if trainer.is_global_zero:
                print(f"done before: {folder}")
            return begun.summary
        parent, module, data = prepare(cfg, trainer, begun)
        summary = train(trainer, module, data, begun.checkpoint, history)
        export(cfg, trainer, module, data, parent, summary)
    return summary


def prepare(cfg: DictConfig, trainer: Trainer, begun: Begun) -> tuple[Parent, Task, Data]:
    """All that training needs; and the record of what it was."""
    parent = parent_of(cfg)
    if cfg.init.select:
        with torch.device("meta"):  # shapes that do not fit are found before anything is downloaded
            make_plan(parent.child({}), child_of(parent, cfg), select="first")
    weights = begun.provenance.get("parent") if begun.checkpoint else None
    if uses_parent(cfg) and not begun.checkpoint:
        weights = from_rank_zero(parent.contents)  # the Hub's are then in the cache for the others
    parent.hold(weights or {})
    data = data_of(cfg)
    if begun.checkpoint:
        begun.same_data(data.provenance)
    trainer.accumulate_grad_batches = accumulation(data.batch_size, trainer.world_size, cfg.micro_batch)
    module = _task(cfg, parent, data)
    trainer.fit_loop.max_epochs = module.validations  # one of Lightning's is the time from one validation to the next
    callbacks = [Throughput(parent, cfg)] + ([] if begun.checkpoint else [Start(cfg, parent, data, begun.folder)])
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    from_rank_zero(_record, cfg, trainer, begun, {"data": data.provenance, "parent": weights})
    return parent, module, data


def _task(cfg: DictConfig, parent: Parent, data: Data) -> Task:
    """What is trained: a model of the run's shape, with the library's initial weights."""
    seed_everything(cfg.seed, verbose=False)  # whatever the data drew
    model = child_of(parent, cfg)
    optim: Any = OmegaConf.to_container(cfg.optim, resolve=True)
    module: Any = parent.module(model, optim, data, fused=not str(cfg.trainer.precision).endswith("mixed"))
    if cfg.get("distill"):

        def done() -> float:
            return module.trainer.global_step / module.trainer.estimated_stepping_batches

        module.teacher = Teacher(parent.trained(), **cfg.distill, done=done)
    if cfg.compile:
        model.compile()  # in place: the names of the parameters stay
    return offering(Task, module)


def _record(cfg: DictConfig, trainer: Trainer, begun: Begun, what: dict) -> None:
    """On rank 0: write down what starts, and tell W&B."""
    for stray in begun.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    how = {"ranks": trainer.world_size, "passes": trainer.accumulate_grad_batches}
    entry = record_start(begun.folder / "provenance.json", provenance() | how | what, resumed=bool(begun.checkpoint))
    if cfg.logger.wandb:
        os.environ.setdefault("WANDB_SILENT", "true")  # one line per run is enough
        from pytorch_lightning.loggers import WandbLogger

        name = {"name": cfg.run, "id": wandb_id(begun.folder, cfg.run), "resume": "allow"}
        trainer.logger = WandbLogger(**name, save_dir=begun.folder, **cfg.logger.wandb)
        trainer.logger.log_hyperparams(own_config(cfg))
        trainer.logger.experiment.config.update({"provenance": entry}, allow_val_change=True)


def train(trainer: Trainer, module: Task, data: Data, checkpoint: Path | None, history: History) -> dict:
    """Validate the beginning, train on to the end, and return the summary."""
    parts: dict[str, Any] = {"model": module, "datamodule": data}
    failed = True
    try:
        if not checkpoint:
            trainer.validate(**parts, verbose=False)
        trainer.fit(**parts, ckpt_path=checkpoint, weights_only=True)
        parameters = sum(p.numel() for p in module.model.parameters())
        summary = {"parameters": parameters, "seconds": round(history.seconds, 1), **history.rows[-1]}
        if skipped := getattr(data, "skipped", 0):
            summary["skipped_images"] = skipped
        if wandb_run := wandb_run_of(trainer):
            wandb_run.summary.update(summary)
        failed = False
    finally:
        if wandb_run := wandb_run_of(trainer):  # a sweep's next run must not log into this one
            wandb_run.finish(exit_code=int(failed))
    return summary


def export(cfg: DictConfig, trainer: Trainer, module: Task, data: Data, parent: Parent, summary: dict) -> None:
    """Leave the trained weights for plain timm or transformers, and last the summary."""
    folder = Path(cfg.run_dir)
    state = trainer.strategy.lightning_module_state_dict()  # all ranks take part where the model is sharded
    if trainer.is_global_zero:
        for name, prefix in {"model": "model.", "model_ema": "ema.module."}.items():
            trained = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if trained:
                whole = child_of(parent, cfg)
                whole.load_state_dict(trained)
                shutil.rmtree(folder / name, ignore_errors=True)
                with atomic(folder / name) as temporary:
                    parent.export(whole, temporary, data)
        (folder / PREVIOUS).unlink(missing_ok=True)
        write_json(folder / "summary.json", summary)
        print(f"{cfg.run}: {module.headline} {summary[module.headline]:.4g}, {summary['seconds']} s")


class SeededSteps(Callback):
    """What a step does depends on its number alone, so that a resumed run does the same.

    Random numbers are drawn from (seed, step, pass, rank); the mean training loss is of the steps since a validation,
    those before an interruption included.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.global_step % trainer.datamodule.steps == 0:
            module.train_loss.reset()

    def on_save_checkpoint(self, trainer, module, checkpoint: dict) -> None:
        checkpoint["train_loss"] = module.train_loss.metric_state

    def on_load_checkpoint(self, trainer, module, checkpoint: dict) -> None:
        recount(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches)
        if trainer.is_global_zero:  # its sum is of all ranks
            for name, value in checkpoint["train_loss"].items():
                setattr(module.train_loss, name, value.to(module.device))

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        seed_all(self.seed, trainer.global_step, batch_idx % trainer.accumulate_grad_batches, trainer.global_rank)


def recount(fit_loop: dict, passes: int) -> None:
    """Write into a checkpoint's `fit_loop` how many micro-batches its steps are, at `passes` per step.

    Lightning goes on by their number, and before the interruption there may have been more or fewer in a step.
    """
    steps = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for part, batches in fit_loop["epoch_loop.batch_progress"].items():
        if part in steps:  # current, of this epoch, and total
            missing = steps[part]["completed"] * passes - batches["ready"]
            batches.update({name: count + missing for name, count in batches.items()})


def _trainer(cfg: DictConfig, folder: Path, callbacks: list[Callback]) -> Trainer:
    checkpoints = ModelCheckpoint(
        dirpath=folder,
        filename=Path(LAST).stem,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
        every_n_epochs=cfg.checkpoint_every,
    )
    callbacks = [SeededSteps(cfg.seed), *callbacks, checkpoints]
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    watched = sys.stderr.isatty() and not sweeping  # in a job's log a progress bar is noise
    if watched:
        callbacks.append(TQDMProgressBar(leave=False))
    plugins: list[Any] = [SafeCheckpoints()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # StopAtStep does that
    return Trainer(
        **instantiate(cfg.trainer),
        default_root_dir=folder,
        max_epochs=-1,  # until the data tell
        gradient_clip_val=cfg.optim.clip,
        callbacks=callbacks,
        plugins=plugins,
        logger=False,
        enable_progress_bar=watched,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # metrics updated before and during fit must be ordinary tensors
        use_distributed_sampler=False,
        log_every_n_steps=10,
    )


def quieten() -> None:
    """One line per run is enough: Lightning's hints about workers and devices do not apply to data like ours."""
    transformers.utils.logging.disable_progress_bar()
    for name in ("pytorch_lightning", "timm"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
