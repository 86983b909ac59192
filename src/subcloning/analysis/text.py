"""Numbers as tables say them."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .intervals import Interval
from .speedup import limits, times_to_target
from .study import Study


def quality_text(value: float, study: Study, digits: int = 1) -> str:
    """An accuracy in per cent; a loss as perplexity."""
    return f"{value:.{digits}%}" if study.sign > 0 else f"{np.exp(value):.{digits}f}"


def target_text(study: Study) -> str:
    text = quality_text(study.target, study, digits=0)
    return text if study.sign > 0 else f"perplexity {text}"


def time_text(value: float, study: Study, digits: int = 1) -> str:
    """Epochs; tokens in thousands."""
    return f"{value:.{digits}f}" if study.time == "epoch" else f"{value / 1000:.0f}k"


def mean_text(values: pd.Series, study: Study) -> str:
    """The metric's mean over seeds; where runs diverged, how many."""
    lost = int(values.isna().sum())
    return f"diverged ({lost}/{len(values)})" if lost else quality_text(values.mean(), study)


def reached_text(arm: pd.DataFrame, study: Study, target: float, form: Callable[[float], str] | None = None) -> str:
    """The geometric mean of the times to `target`; as a bound, with `(2/3)`, where only so many runs got there.

    form: how a time is written, if not as in `time_text`.
    """
    form = form or (lambda time: time_text(time, study))
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


def ratio_text(ratio: Interval) -> str:
    if np.isnan(ratio.value):
        return "-"

    def number(value):
        return f"{value:.0f}" if 1000 <= value < np.inf else f"{value:.3g}"

    value = f"{ratio.bound} {number(ratio.value)}".strip()
    known = ratio.low > 0 or ratio.high < np.inf
    return f"{value} [{number(ratio.low)}, {number(ratio.high)}]" if known else f"{value} [no interval]"


def gain_scale(study: Study) -> tuple[str, int, int]:
    """In what a difference of the metric is given: its unit, a factor, and digits."""
    return ("points", 100, 1) if study.sign > 0 else ("nats", 1, 3)


def gain_text(gain: Interval, study: Study) -> str:
    if not np.isfinite(gain.value):
        return "-"
    _, scale, digits = gain_scale(study)
    value, low, high = (f"{scale * x:+.{digits}f}" for x in (gain.value, gain.low, gain.high))
    return f"{value} [{low}, {high}]" if np.isfinite(gain.low) else f"{value} [no interval]"


def chance_text(intervals: int) -> str:
    """What is to be expected of so many intervals by chance alone."""
    return f"{intervals} intervals of 95 %: without any difference, about {intervals / 20:.1f} would still show one."
