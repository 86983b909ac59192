"""Sweeps on one machine: how many runs at a time (`configs/hydra/launcher/local.yaml`), and which GPU each takes."""

import os

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..errors import SubcloningError


def runs_at_a_time(accelerator: str) -> int:
    """joblib's `n_jobs`: one for each GPU; without GPUs, or with accelerator=cpu, -1, one for each core."""
    return (0 if accelerator == "cpu" else len(gpus())) or -1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = [str(number) for number in range(torch.cuda.device_count())]
    return visible.split(",")[: len(every)] if visible else every


def take_device(cfg: DictConfig) -> None:
    """Leave a run of a sweep by joblib one GPU, before any is used. Its process keeps it for the runs that follow.

    Raises in a sweep on this machine whose runs want several devices: the processes of all would meet on them, or start
    the whole sweep again for each device.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    by_joblib = "joblib" in HydraConfig.get().launcher._target_
    ranks = not by_joblib and {"SLURM_PROCID", "LOCAL_RANK"} & os.environ.keys()  # srun or torchrun made them
    if cfg.trainer.devices != 1 and not ranks:
        raise SubcloningError(
            f"trainer.devices={cfg.trainer.devices}: a sweep on one machine gives each run one device. Set "
            "trainer.devices=1, or give the runs to SLURM: slurm/README.md"
        )
    if by_joblib and cfg.trainer.accelerator != "cpu" and (free := gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = free[HydraConfig.get().job.num % len(free)]


OmegaConf.register_new_resolver("runs_at_a_time", runs_at_a_time, replace=True)
