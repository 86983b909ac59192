"""What a study is: its folder below experiments/ says it in study.yaml."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from ..errors import SubcloningError
from ..files import ROOT
from .intervals import Interval

SCALES = ("mini", "small", "paper")


@dataclass(frozen=True)
class Study:
    """What a study's runs are judged by.

    time, metric: columns of its runs; a metric whose name ends in `loss` counts downwards.
    target: the early target, a value of `metric`. In study.yaml, that of a loss is given as perplexity.
    tuned_for: each arm's learning rate and weight decay are those with the shortest time to the early target, or those
        with the best value at the end.
    shown: times at which the table gives the metric.
    name, label: its folder, and what tables call it. scale: mini (`make study-mini`), small or paper.
    parent: of configs/parent, whose blocks and units are measured; None where another study has the same one.
    """

    time: str
    metric: str
    target: float
    tuned_for: Literal["time", "final"]
    shown: tuple[int, ...]
    name: str = ""
    label: str = ""
    scale: Literal["mini", "small", "paper"] = "mini"
    parent: str | None = None

    @property
    def sign(self) -> int:
        """Times the metric: larger is better."""
        return -1 if self.metric.endswith("loss") else 1

    @property
    def unit(self) -> str:
        """Of a difference of the metric, times `factor`."""
        return "points" if self.sign > 0 else "nats"

    @property
    def factor(self) -> int:
        return 100 if self.sign > 0 else 1

    @property
    def time_unit(self) -> str:
        return "epochs" if self.time == "epoch" else self.time

    @property
    def target_text(self) -> str:
        text = self.quality_text(self.target, digits=0)
        return text if self.sign > 0 else f"perplexity {text}"

    def quality_text(self, value: float, digits: int = 1) -> str:
        """An accuracy in per cent; a loss as perplexity."""
        return f"{value:.{digits}%}" if self.sign > 0 else f"{np.exp(value):.{digits}f}"

    def time_text(self, value: float, digits: int = 1) -> str:
        """Epochs; tokens in thousands."""
        return f"{value:.{digits}f}" if self.time == "epoch" else f"{value / 1000:.0f}k"

    def gain_text(self, gain: Interval, unit: str = "") -> str:
        """A difference of the metric and its interval; `unit`, if it is to stand there, begins with a space."""
        if not np.isfinite(gain.value):
            return "-"
        digits = 1 if self.sign > 0 else 3
        value, low, high = (f"{self.factor * x:+.{digits}f}" for x in (gain.value, gain.low, gain.high))
        return f"{value}{unit} " + (f"[{low}, {high}]" if np.isfinite(gain.low) else "[no interval]")

    @classmethod
    def load(cls, folder: Path) -> "Study":
        """The study in `folder`, from its study.yaml."""
        file = folder / "study.yaml"
        known = yaml.safe_load(file.read_text())
        needed = {"label", "scale", "time", "metric", "target", "tuned_for", "shown"}
        names = {field.name for field in fields(cls)} - {"name"}
        if not isinstance(known, dict) or not needed <= set(known) <= names:
            raise SubcloningError(
                f"{file} has {sorted(known or {})}: expected {', '.join(sorted(needed))}, and if need be "
                f"{', '.join(sorted(names - needed))}"
            )
        for key, choices in {"scale": SCALES, "tuned_for": ("time", "final"), "time": ("epoch", "tokens")}.items():
            if known[key] not in choices:
                raise SubcloningError(f"{file} has {key}: {known[key]}: expected {', '.join(choices)}")
        if not (folder / "run.sh").exists():
            raise SubcloningError(f"{folder} has no run.sh: a study's folder says how it is run")
        target = math.log(known["target"]) if known["metric"].endswith("loss") else known["target"]
        return cls(**known | {"name": folder.name, "shown": tuple(known["shown"]), "target": target})


def load_studies(root: Path = ROOT / "experiments") -> dict[str, Study]:
    """Each study by its folder's name: mini, small, paper, and by name."""
    found = [Study.load(file.parent) for file in sorted(root.glob("*/study.yaml"))]
    return {study.name: study for study in sorted(found, key=lambda study: SCALES.index(study.scale))}


STUDIES = load_studies()
