"""How much faster? Time to a target, and its ratio between two arms with an interval over seeds."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..axes import SubcloningError

SETTING = ["init", "lr", "weight_decay"]


@dataclass(frozen=True)
class Study:
    """What a study's runs are judged by.

    time, metric: columns of its runs.csv; a metric whose name ends in `loss` counts downwards.
    target: the early target, a value of `metric`.
    tuned_for: each arm's learning rate and weight decay are those with the shortest time to the early target, or those
        with the best value at the end.
    shown: times at which the table gives the metric.
    """

    time: str
    metric: str
    target: float
    tuned_for: Literal["time", "final"]
    shown: tuple[int, ...]

    @property
    def sign(self) -> int:
        """Times the metric: larger is better."""
        return -1 if self.metric.endswith("loss") else 1


class Ratio(NamedTuple):
    """A speed-up, or a difference, and its 95 % interval. A speed-up over what never gets there is infinite."""

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


def times_to_target(runs: pd.DataFrame, study: Study, target: float) -> pd.Series:
    """Time to `target` of every run in `runs` (columns init, lr, weight_decay, seed, the study's time and metric)."""
    groups = runs.sort_values(study.time).groupby([*SETTING, "seed"], sort=False)

    def time(run):
        return time_to_target(run[study.time], study.sign * run[study.metric], study.sign * target)

    return groups.apply(time, include_groups=False)


def final(runs: pd.DataFrame, study: Study) -> pd.Series:
    """The metric of every run at the end, indexed like `times_to_target`."""
    return runs[runs[study.time] == runs[study.time].max()].set_index([*SETTING, "seed"])[study.metric]


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


def difference(arm: pd.Series, baseline: pd.Series, *, resamples: int = 10_000, seed: int = 0) -> Ratio:
    """Mean of arm minus baseline over the seeds that both have (their index), with its interval as in `speed_up`.

    The same seed means the same data in the same order, so seeds are resampled in pairs.
    """
    differences = (arm - baseline).dropna().to_numpy()
    if not len(differences):
        raise SubcloningError(f"no seed in common: {sorted(arm.index)} and {sorted(baseline.index)}")
    draws = np.random.default_rng(seed).choice(differences, (resamples, len(differences))).mean(axis=1)
    return Ratio(float(differences.mean()), *(float(value) for value in np.percentile(draws, [2.5, 97.5])))


def best_settings(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Each init mode's best learning rate and weight decay, by what the study is `tuned_for`.

    The paper, too, tunes each mode by itself. grid: runs over lr and weight_decay. The mean over seeds counts, so that
    a setting pays for each slow seed; ties, also of settings that never get there, go to the better final value.
    Returns lr, weight_decay, time and final, indexed by init.
    """
    times, last = times_to_target(grid, study, study.target), final(grid, study)
    last = last.fillna(-study.sign * np.inf)  # a run that diverged spoils its setting
    table = pd.DataFrame({"time": times, "final": last}).groupby(SETTING).mean().reset_index()
    table["lost"] = -study.sign * table["final"]
    ranked = table.sort_values(["time", "lost"] if study.tuned_for == "time" else ["lost"])
    return ranked.drop(columns="lost").groupby("init").first()
