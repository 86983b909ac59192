"""One run, from config to summary. Start-up order: own last checkpoint, else the parent, else random weights."""

import json
import logging
import os
import shutil
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only
from transformers.utils import flatten_dict

from ..axes import SubcloningError
from ..data.augment import refuse_idle_recipe, seed_all
from ..data.batches import accumulation
from ..files import atomic, locked
from ..plan import make_plan
from .distil import Teacher
from .interruptions import LAST, PREVIOUS, SafeCheckpoints, StopAtStep, newest_checkpoint
from .record import History, Throughput, provenance, write_json
from .start import Start

# What a run is; trainer and logger say only where it runs and who is told, and some of data how it is read.
IDENTITY = ("name", "parent", "destination", "init", "data", "optim", "distill", "seed")
NOT_IDENTITY = ("data.workers", "data.verify", "data.corpus.folder", "data.folder")


def run(cfg: DictConfig) -> dict:
    """Train what `cfg` (configs/train.yaml) describes, or resume it, and return its summary.

    In the run's folder: config.yaml, provenance.json, plan.safetensors, metrics.csv, last.ckpt, model/ (which plain
    timm or transformers loads; model_ema/ has the averaged weights) and, last, summary.json. A folder with a summary is
    done.
    """
    refuse_idle_recipe(cfg)
    folder = Path(cfg.run_dir)
    with locked(folder / ".lock") if rank_zero_only.rank == 0 else nullcontext():
        return _run(cfg, folder)


def _run(cfg: DictConfig, folder: Path) -> dict:
    _claim(folder, cfg)
    summary_file = folder / "summary.json"
    if summary_file.exists():
        print(f"done before: {folder}")
        return json.loads(summary_file.read_text())

    quieten()
    history = History(folder / "metrics.csv")
    parent = instantiate(cfg.parent, _convert_="all")
    shape = {key: value for key, value in cfg.destination.items() if key != "name"}
    if cfg.init.select:
        with torch.device("meta"):  # shapes that do not fit are found before anything is downloaded
            make_plan(parent.child({}), parent.child(shape), select="first")
    data = instantiate(cfg.data, _convert_="all")
    if rank_zero_only.rank == 0:
        for stray in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    checkpoint = newest_checkpoint(folder)
    seed_everything(cfg.seed, verbose=False)  # whatever the data drew
    model = parent.child(shape)
    optim = OmegaConf.to_container(cfg.optim, resolve=True)
    fused = not str(cfg.trainer.precision).endswith("mixed")
    module = parent.module(model, optim, data, fused=fused)
    if cfg.get("distill"):
        module.teacher = Teacher(parent.trained(), **cfg.distill)
    stop = StopAtStep(folder)
    trainer = _trainer(cfg, folder, [history, stop], module.validations)
    if not checkpoint:
        trainer.callbacks.append(Start(cfg, parent, data, folder))
        if trainer.is_global_zero:
            write_json(folder / "provenance.json", origin := provenance(data.provenance))
            if trainer.logger:
                trainer.logger.experiment.config.update({"provenance": origin}, allow_val_change=True)
    if cfg.compile:
        model.compile()  # in place: the names of the parameters stay
    trainer.accumulate_grad_batches = accumulation(data.batch_size, trainer.world_size, cfg.micro_batch)
    try:
        with stop:
            if not checkpoint:
                trainer.validate(module, data, verbose=False)
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        summary = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(history.seconds, 1),
            **history.rows[-1],
        }
        if skipped := getattr(data, "skipped", 0):
            summary["skipped_images"] = skipped
        if trainer.is_global_zero and cfg.logger.wandb:
            trainer.logger.experiment.summary.update(summary)
    finally:
        if trainer.is_global_zero and cfg.logger.wandb:
            trainer.logger.experiment.finish()  # a sweep's next run must not log into this one

    state = trainer.strategy.lightning_module_state_dict()  # all ranks take part where the model is sharded
    if trainer.is_global_zero:
        for name, prefix in {"model": "model.", "model_ema": "ema.module."}.items():
            trained = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if trained:
                whole = parent.child(shape)
                whole.load_state_dict(trained)
                shutil.rmtree(folder / name, ignore_errors=True)
                with atomic(folder / name) as temporary:
                    parent.export(whole, temporary, data)
        (folder / PREVIOUS).unlink(missing_ok=True)
        write_json(summary_file, summary)
        print(f"{cfg.run}: {module.headline} {summary[module.headline]:.4g}, {summary['seconds']} s")
    return summary


def _claim(folder: Path, cfg: DictConfig) -> None:
    """Write the run's config; but if the folder holds a trained or begun run, make sure that it is the same one."""
    wanted = OmegaConf.to_container(cfg, resolve=True)
    file = folder / "config.yaml"
    if any((folder / name).exists() for name in (LAST, PREVIOUS, "summary.json")):
        found = OmegaConf.to_container(OmegaConf.load(file))
        old, new = (flatten_dict({key: config.get(key) for key in IDENTITY}) for config in (found, wanted))
        keys = sorted({*old, *new} - {*NOT_IDENTITY})
        differing = [key for key in keys if old.get(key) != new.get(key)]
        if differing:
            what = ", ".join(f"{key} = {old.get(key)} (wanted {new.get(key)})" for key in differing)
            raise SubcloningError(
                f"{folder} holds another run: {what}. Give this one a new experiment name (name=...), or remove the "
                "folder to train it again"
            )
        return
    if rank_zero_only.rank == 0:
        with atomic(file) as temporary:
            OmegaConf.save(OmegaConf.create(wanted), temporary)


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
        if trainer.is_global_zero:  # its sum is of all ranks
            for name, value in checkpoint["train_loss"].items():
                setattr(module.train_loss, name, value.to(module.device))

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        seed_all(self.seed, trainer.global_step, batch_idx % trainer.accumulate_grad_batches, trainer.global_rank)


def _trainer(cfg: DictConfig, folder: Path, callbacks: list[Callback], validations: int) -> Trainer:
    checkpoints = ModelCheckpoint(
        dirpath=folder,
        filename=Path(LAST).stem,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
        every_n_epochs=cfg.checkpoint_every,
    )
    callbacks = [Throughput(), SeededSteps(cfg.seed), *callbacks, checkpoints]
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    watched = sys.stderr.isatty() and not sweeping  # in a job's log a progress bar is noise
    if watched:
        callbacks.append(TQDMProgressBar(leave=False))
    plugins = [SafeCheckpoints()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # StopAtStep does that
    logger = False
    if cfg.logger.wandb:
        os.environ.setdefault("WANDB_SILENT", "true")  # one line per run is enough
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(
            name=cfg.run, id=cfg.run.replace("/", "--"), save_dir=folder, resume="allow", **cfg.logger.wandb
        )
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    return Trainer(
        **instantiate(cfg.trainer),
        default_root_dir=folder,
        max_epochs=validations,  # an epoch of Lightning's is the time from one validation to the next
        gradient_clip_val=cfg.optim.clip,
        callbacks=callbacks,
        plugins=plugins,
        logger=logger,
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
