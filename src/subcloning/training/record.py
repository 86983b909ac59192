"""What a run leaves behind besides its weights: its config, where it came from, its curve and its summary."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning import Callback

from ..files import atomic

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "transformers", "hydra-core", "numpy")


def write_json(path: Path, value: object) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def provenance(data: dict) -> dict:
    """Code revision, package versions and hardware, and what the `data` were."""
    root = Path(__file__).parents[3]

    def git(*args):
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "revision": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--", root / "src", root / "configs")),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "data": data,
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
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between an interruption and its resumption."""
        return time.perf_counter() - self.started

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
        if trainer.is_global_zero:
            with atomic(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False, float_format="%.6g")
