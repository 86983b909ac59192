"""Intervals that hold what they say at three to five seeds or parents (tests/test_intervals.py simulates it).

Where children of several parents are compared, runs are known by (parent, seed). What they share is their parent, so
that each parent's mean over its seeds counts as one observation. A bootstrap of parents and then of seeds needs more
of them: of 95 % intervals over five parents it makes 85 to 89 %, over three 74 to 83 %, once half of the spread is
between parents (benchmarks/bootstrap.py).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import SubcloningError

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval. An end that is not known is infinite, or 0 for the low end of a ratio.

    bound: ">" where the value is a lower bound of the estimate, "<" where it is an upper one, else "".
    neutral: the value that says that there is no difference: 0, or 1 for a ratio.
    """

    value: float
    low: float
    high: float
    bound: Literal["", "<", ">"] = ""
    neutral: float = 0.0

    @property
    def verdict(self) -> str:
        """Of what is in favour where it is large: better, worse, or open; diverged where runs cannot be compared."""
        if not np.isfinite(self.value):
            return "diverged"
        return "better" if self.low > self.neutral else "worse" if self.high < self.neutral else "open"


def difference(arm: pd.Series, baseline: pd.Series) -> Interval:
    """Mean of arm minus baseline over the runs that both have, and its paired t interval.

    Their index says which run it is: its seed, or (parent, seed). The same seed means the same data in the same order.
    A run that diverged, NaN, is infinitely bad: the mean is then infinite (NaN if both arms have one), and nothing is
    known of how far off it is.
    """
    seeds = arm.index.intersection(baseline.index)
    if not len(seeds):
        raise SubcloningError(f"no seed in common: {sorted(arm.index)} and {sorted(baseline.index)}")
    ends = np.array([values[seeds].fillna(-np.inf).to_numpy(float) for values in (arm, baseline)])
    if not np.isfinite(ends).all():
        with np.errstate(invalid="ignore"):
            return Interval(float(ends[0].mean() - ends[1].mean()), -np.inf, np.inf)
    differences = pd.Series(ends[0] - ends[1], seeds)
    if seeds.nlevels > 1:
        differences = differences.groupby(level=0).mean()
    value = float(differences.mean())
    if len(differences) == 1:
        return Interval(value, -np.inf, np.inf)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences))
    return Interval(value, value - half, value + half)


def between(differences: pd.Series) -> float:
    """The share of the variance of `differences`, known by (parent, seed), that lies between parents.

    Both parts are estimated from the mean squares of an analysis of variance of one way; NaN where no parent has two
    seeds, there is one parent, or a run diverged.
    """
    groups = differences.groupby(level=0)
    sizes, parents, n = groups.size(), groups.ngroups, len(differences)
    if parents < 2 or n == parents or not np.isfinite(differences).all():
        return np.nan
    within = (groups.var() * (sizes - 1)).sum() / (n - parents)
    across = (sizes * (groups.mean() - differences.mean()) ** 2).sum() / (parents - 1)
    per_parent = (n - (sizes**2).sum() / n) / (parents - 1)
    variance = max(0.0, (across - within) / per_parent)
    return float(variance / (variance + within)) if variance + within else np.nan


def speed_up(baseline: ArrayLike, arm: ArrayLike, limits: tuple[float, float]) -> Interval:
    """Geometric mean of the baseline's times over that of the arm's, and Welch's t interval of their logarithms.

    baseline, arm: times to the same target, one entry per seed; if they are known by (parent, seed), the interval is
    that of `difference`, since both arms have their parents in common. limits: one training step, and the end of
    training. A time of 0 (there before training) counts as the first, an infinite one (never there) as the second. That
    makes the ratio a bound, of which one end is known; then the t quantile is the smaller arm's, since with Welch's
    degrees of freedom that end would be missed too often. NaN if runs of both kinds pull the bound both ways.
    """
    runs = [times.index for times in (baseline, arm) if isinstance(times, pd.Series) and times.index.nlevels > 1]
    baseline, arm = np.asarray(baseline, float), np.asarray(arm, float)
    first, last = limits
    at_least = np.isinf(baseline).any() or (arm < first).any()
    at_most = np.isinf(arm).any() or (baseline < first).any()
    if at_least and at_most:
        return Interval(np.nan, 0.0, np.inf, neutral=1.0)
    logs = [np.log(np.clip(times, first, last)) for times in (baseline, arm)]
    bound: Literal["", "<", ">"] = ">" if at_least else "<" if at_most else ""
    if runs:
        found = difference(*map(pd.Series, logs, runs))
        value, low, high = (float(np.exp(end)) for end in (found.value, found.low, found.high))
        return Interval(value, 0.0 if at_most else low, np.inf if at_least else high, bound, neutral=1.0)
    value = float(np.exp(logs[0].mean() - logs[1].mean()))
    if min(map(len, logs)) == 1:
        return Interval(value, 0.0, np.inf, bound, neutral=1.0)
    errors = np.array([x.var(ddof=1) / len(x) for x in logs])
    freedom = np.array([len(x) - 1 for x in logs])
    welch = errors.any() and not bound
    df = errors.sum() ** 2 / (errors**2 / freedom).sum() if welch else freedom.min()
    half = np.exp(stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(errors.sum()))
    low, high = 0.0 if at_most else float(value / half), np.inf if at_least else float(value * half)
    return Interval(value, low, high, bound, neutral=1.0)
