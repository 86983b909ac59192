"""Numbers as tables say them."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .intervals import Interval
from .speedup import limits, times_to_target
from .study import Study


def mean_text(values: pd.Series, study: Study) -> str:
    """The metric's mean over seeds; where runs diverged, how many."""
    lost = int(values.isna().sum())
    return f"diverged ({lost}/{len(values)})" if lost else study.quality_text(values.mean())


def reached_text(arm: pd.DataFrame, study: Study, target: float, form: Callable[[float], str] | None = None) -> str:
    """The geometric mean of the times to `target`; as a bound, with `(2/3)`, where only so many runs got there.

    form: how a time is written, if not as in `study.time_text`.
    """
    form = form or study.time_text
    if np.isnan(target):
        return "-"
    times, (first, last) = times_to_target(arm, study, target), limits(arm, study)
    reached = int(np.isfinite(times).sum())
    if not reached:
        return "never"
    if (times < first).all():
        return "at once"
    text = form(np.exp(np.log(times.clip(first, last)).mean()))
    if reached == len(times):
        return f"< {text}" if (times < first).any() else text
    return f"{'' if (times < first).any() else '> '}{text} ({reached}/{len(times)})"


def share_text(arm: pd.DataFrame, study: Study, target: float) -> str:
    """`reached_text` as a share of the arm's training."""
    length = arm[study.time].max()
    return reached_text(arm, study, target, lambda time: f"{time / length:.0%}")


def ratio_text(ratio: Interval, unit: str = "") -> str:
    """A ratio and its interval; `unit`, if it is to stand there, begins with a space."""
    if np.isnan(ratio.value):
        return f"-{unit}"

    def number(value: float) -> str:
        return f"{value:.0f}" if 1000 <= value < np.inf else f"{value:.3g}"

    value = f"{ratio.bound} {number(ratio.value)}{unit}".strip()
    known = ratio.low > 0 or ratio.high < np.inf
    return f"{value} [{number(ratio.low)}, {number(ratio.high)}]" if known else f"{value} [no interval]"


def drawn_text(arm: pd.DataFrame) -> str:
    """How many runs there are: `5` seeds, or `5 x 3` parents x seeds."""
    if "parent" not in arm:
        return str(arm["seed"].nunique())
    seeds = arm.groupby("parent")["seed"].nunique()
    return f"{len(seeds)} x {seeds.min()}"


def chance_text(intervals: int) -> str:
    """What is to be expected of so many intervals by chance alone."""
    return f"{intervals} intervals of 95 %: without any difference, about {intervals / 20:.1f} would still show one."
