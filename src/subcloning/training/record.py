"""What a run leaves behind besides its weights: its config, where it came from, its curve and its summary."""

import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer

from ..errors import SubcloningError
from ..files import ROOT, atomic
from ..method.plan import Plan

SNAPSHOT = "snapshot.json"  # beside src, in a copy of the code: what it is a copy of
WANDB_ID, SYNCED = "wandb_id", "synced-"  # files that say under which id W&B has a run, and how much of it
CURVE = "curve/"  # before the names of a row of metrics.csv, where W&B gets it
TABLES = ("tuned", "cases", "parents")
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "transformers", "hydra-core", "numpy")


def own_config(cfg: DictConfig) -> dict:
    """`cfg`, resolved, without the tables in which an experiment looks up what is each run's."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in config.items() if key not in TABLES}


def write_json(path: Path, value: object) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict:
    """What `write_json` wrote to `path`."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise SubcloningError(f"{path} cannot be read ({error}): remove it, or its folder, and start again") from error
    if not isinstance(value, dict):
        raise SubcloningError(f"{path} holds {value!r}, expected a record: remove it, or its folder, and start again")
    return value


def record_start(file: Path, entry: dict, *, resumed: bool) -> dict:
    """Write provenance.json of a run that starts with `entry`, and return all that it holds.

    Of a run that is `resumed`, what is not as it was before is added to the list `resumed`.
    """
    if resumed and file.exists():
        known = read_json(file)
        starts = known.get("resumed", [])
        last = {key: value for start in (known, *starts) for key, value in start.items()}
        if changed := {key: value for key, value in entry.items() if last.get(key) != value}:
            known["resumed"] = [*starts, changed]
        entry = known
    write_json(file, entry)
    return entry


def wandb_id(folder: Path, run: str) -> str:
    """The id under which W&B has the run in `folder`, drawn when it is first asked for: no other run has it."""
    file = folder / WANDB_ID
    if not file.exists():
        with atomic(file) as temporary:
            temporary.write_text(f"{run.replace('/', '--')[:119]}-{uuid.uuid4().hex[:8]}\n")  # 128 letters at most
    return file.read_text().strip()


def wandb_run_of(trainer: Trainer) -> Any:
    """W&B's object of the run that logs there, or None."""
    logger: Any = trainer.logger
    return logger and logger.experiment


def plan_table(plan: Plan):
    """A W&B table of what the plan keeps of each axis."""
    import wandb

    rows: list[Any] = [
        [key, old, new, plan.kept(key, limit=new) if key in plan.maps else ""] for key, (old, new) in plan.sizes.items()
    ]
    return wandb.Table(columns=["axis", "parent", "child", "kept"], data=rows)


def revision() -> dict:
    """Of the code: the commit, and whether it was modified since."""
    if (ROOT / SNAPSHOT).exists():
        return read_json(ROOT / SNAPSHOT)  # of when it was taken

    def git(*args: str | Path) -> str:
        if not shutil.which("git"):
            return ""
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    modified = git("status", "--porcelain", "--", ROOT / "src", ROOT / "configs")
    return {"revision": git("rev-parse", "HEAD"), "modified": bool(modified)}


def provenance() -> dict:
    """Code revision, package versions and hardware."""
    return revision() | {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


class History(Callback):
    """Writes metrics.csv: one row after each validation, and one before training.

    The rows travel in the checkpoint, and the file is rewritten whole: a resumed run has no gap and no row twice.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict] = []
        self.started = 0.0

    @property
    def seconds(self) -> float:
        """Since the models were set up, without the time between an interruption and its resumption."""
        return time.perf_counter() - self.started

    def setup(self, trainer, module, stage: str) -> None:
        self.started = self.started or time.perf_counter()

    def state_dict(self) -> dict:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.rows = list(state["rows"])
        self.started -= state["seconds"]

    def on_validation_end(self, trainer, module) -> None:
        if trainer.state.fn == "validate":
            self._add(trainer, module)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._add(trainer, module)

    def _add(self, trainer, module) -> None:
        metrics = {key: value.item() for key, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({**module.progress(trainer.global_step), "step": trainer.global_step, **metrics})
        if trainer.logger:
            row = {f"{CURVE}{key}": value for key, value in self.rows[-1].items()}
            trainer.logger.log_metrics(row, trainer.global_step)
        if trainer.is_global_zero:
            with atomic(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False, float_format="%.6g")
