"""How much faster? Time to a target, and its ratio between two arms with an interval over seeds."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


class Ratio(NamedTuple):
    """A speed-up and its 95 % interval; infinite where the baseline did not reach the target."""

    value: float
    low: float
    high: float


def time_to_target(time: ArrayLike, quality: ArrayLike, target: float) -> float:
    """When `quality` first reaches `target`, linearly interpolated between evaluations; infinite if it never does.

    time, quality: (evaluations,), in order of time. For a loss pass -loss and -target.
    """
    time, quality = np.asarray(time, float), np.asarray(quality, float)
    reached = np.flatnonzero(quality >= target)
    if not len(reached):
        return np.inf
    i = reached[0]
    if i == 0:
        return float(time[0])
    share = (target - quality[i - 1]) / (quality[i] - quality[i - 1])
    return float(time[i - 1] + share * (time[i] - time[i - 1]))


def times_to_target(runs: pd.DataFrame, target: float, metric: str = "val_accuracy") -> pd.Series:
    """Epochs to `target` of every run in `runs` (columns init, lr, weight_decay, seed, epoch, `metric`)."""
    groups = runs.sort_values("epoch").groupby(["init", "lr", "weight_decay", "seed"], sort=False)
    return groups.apply(lambda run: time_to_target(run["epoch"], run[metric], target), include_groups=False)


def speed_up(baseline: ArrayLike, arm: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Ratio:
    """median(baseline) / median(arm), times to the same target with one entry per seed.

    The interval is the 2.5th to 97.5th percentile over bootstrap resamples of each arm's seeds. Runs that never reach
    the target enter as infinite, and make the ratio infinite (baseline), zero (arm) or undefined, NaN (both).
    """
    baseline, arm = np.asarray(baseline, float), np.asarray(arm, float)
    random = np.random.default_rng(seed)

    def resampled(x):
        return np.median(random.choice(x, (resamples, len(x))), axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = resampled(baseline) / resampled(arm)
        value = np.median(baseline) / np.median(arm)
    if np.isnan(ratios).any():
        return Ratio(float(value), np.nan, np.nan)
    # Percentiles without interpolation: between a number and infinity there is nothing.
    low, high = np.percentile(ratios, [2.5, 97.5], method="nearest")
    return Ratio(float(value), float(low), float(high))


def best_settings(grid: pd.DataFrame, target: float, metric: str = "val_accuracy") -> pd.DataFrame:
    """Each init mode's learning rate and weight decay with the fewest epochs to `target`.

    The paper, too, tunes each mode for the fastest convergence. grid: runs over lr and weight_decay. The mean over
    seeds counts, so that a setting pays for each slow seed; ties, also of settings that never get there, go to the
    better final quality. Returns lr, weight_decay, epochs and final quality, indexed by init.
    """
    setting = ["init", "lr", "weight_decay"]
    final = grid[grid["epoch"] == grid["epoch"].max()].groupby(setting)[metric].mean()
    table = pd.DataFrame({"epochs": times_to_target(grid, target, metric).groupby(setting).mean(), "final": final})
    ranked = table.reset_index().sort_values(["epochs", "final"], ascending=[True, False])
    return ranked.groupby("init").first()
