"""Sweeps on one machine: as many runs at a time as there are devices, and one device for each."""

import os

import pytest
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from subcloning import SubcloningError
from subcloning.training.sweeps import gpus, take_device


@pytest.fixture
def machine(config, monkeypatch):
    """machine(gpus, *overrides): the config of a sweep by joblib on a machine with so many GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what the test sets is undone
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    for name in ("SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def sweep(count, *overrides, job=0, mode="MULTIRUN", launcher="local"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        overrides = ["experiment=digits", f"hydra/launcher={launcher}", *overrides]
        cfg = compose("train", overrides=overrides, return_hydra_config=True)
        OmegaConf.set_readonly(cfg.hydra, False)
        with open_dict(cfg.hydra):
            cfg.hydra.mode, cfg.hydra.job.num = mode, job
        HydraConfig.instance().set_config(cfg)
        return cfg

    return sweep


@pytest.mark.parametrize(
    ("count", "overrides", "jobs"),
    [
        (0, [], -1),
        (1, [], 1),
        (8, [], 8),
        (8, ["trainer=gpu"], 8),
        (8, ["trainer=cpu"], -1),
        (1, ["hydra.launcher.n_jobs=6"], 6),
    ],
)
def test_runs_at_a_time(machine, count, overrides, jobs):
    cfg = machine(count, *overrides)
    assert cfg.hydra.launcher.n_jobs == jobs
    assert cfg.trainer.devices == 1


def test_each_run_has_a_gpu_and_its_process_keeps_it(machine, monkeypatch):
    taken = []
    for job in range(6):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # of a new process
        take_device(machine(4, job=job))
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["0", "1", "2", "3", "0", "1"]
    take_device(machine(1, job=7))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_only_gpus_that_are_ours(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    cfg = machine(2, job=3)
    assert gpus() == ["2", "5"]
    take_device(cfg)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.parametrize(
    ("count", "options"),
    [(4, {"mode": "RUN"}), (0, {}), (4, {"launcher": "basic"})],
)
def test_devices_are_left_alone_elsewhere(machine, count, options):
    take_device(machine(count, **options))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_runs_of_several_devices_are_not_swept_here(machine, launcher, monkeypatch):
    with pytest.raises(SubcloningError, match=r"trainer.devices=8: a sweep on one machine gives each run one device"):
        take_device(machine(8, "trainer=gpu_8", launcher=launcher))
    monkeypatch.setenv("SLURM_PROCID", "3")  # under srun, which has started all ranks, and each the whole sweep
    take_device(machine(8, "trainer=gpu_8", launcher="basic"))
    take_device(machine(8, "trainer=gpu_8", mode="RUN"))
