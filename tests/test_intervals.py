"""Intervals hold what they say at three to five seeds: simulated, since with so few no limit theorem helps."""

import numpy as np
import pandas as pd
import pytest

from subcloning import SubcloningError
from subcloning.analysis.intervals import Interval, difference, speed_up
from subcloning.analysis.study import STUDIES
from subcloning.analysis.text import ratio_text

TRIALS = 1000
SPREADS = (1 / 3, 1, 3)  # of the baseline over the arm's
FAR = (1e-9, 1e9)  # limits that no time comes near
seeds = pytest.mark.parametrize("n", [3, 4, 5])
DIGITS, TEXT = STUDIES["digits"], STUDIES["gpt2_stdlib"]


def share(hits):
    return np.mean(list(hits))


@seeds
@pytest.mark.parametrize("spread", [1, 3])
def test_a_difference_is_in_its_interval_as_often_as_it_says(n, spread):
    """Runs of a seed have their data in common; each arm has noise of its own besides, of unequal spread."""
    random = np.random.default_rng(n)

    def trial():
        data = random.normal(0, 1, n)
        arm, baseline = (pd.Series(data + x) for x in (0.3 + random.normal(0, 1, n), random.normal(0, spread, n)))
        found = difference(arm, baseline)
        return found.low <= 0.3 <= found.high

    assert 0.935 <= share(trial() for _ in range(TRIALS)) <= 0.97


@seeds
@pytest.mark.parametrize("spread", SPREADS)
def test_a_speed_up_is_in_its_interval_as_often_as_it_says(n, spread):
    random = np.random.default_rng(n)

    def trial():
        found = speed_up(4 * np.exp(0.2 * random.normal(0, spread, n)), np.exp(0.2 * random.normal(0, 1, n)), FAR)
        return found.low <= 4 <= found.high

    assert 0.935 <= share(trial() for _ in range(3 * TRIALS)) <= 0.98


@seeds
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("reached", [0.3, 0.7])  # by so many of the baseline's runs
def test_the_known_end_of_a_bound_holds_where_runs_never_get_there(n, spread, reached):
    random = np.random.default_rng(n)
    scale = 0.2 * spread
    last = np.exp(np.quantile(scale * random.normal(size=100_000), reached))
    limits = (FAR[0], 4 * last)

    def trial():
        baseline, arm = 4 * np.exp(scale * random.normal(size=n)), np.exp(0.2 * random.normal(size=n))
        censored = np.where(baseline > limits[1], np.inf, baseline)
        low = speed_up(censored, arm, limits)
        high = speed_up(arm, censored, limits)  # the same, the other way round
        assert high.low == 0 if low.bound else high.high == pytest.approx(1 / low.low)
        return low.low <= 4 and high.high >= 1 / 4

    assert share(trial() for _ in range(TRIALS)) >= 0.96  # of 97.5 %, for one end


def test_a_speed_up_is_a_ratio_of_geometric_means():
    found = speed_up([8, 16, 32], [2, 4, 8], FAR)
    assert found.value == pytest.approx(4)
    assert found.low < 1 < 4 < found.high  # a spread of two seeds' factor 2 does not tell 4 from 1
    alike = speed_up([8, 8, 8], [2, 2, 2], FAR)
    assert (alike.value, alike.low, alike.high) == pytest.approx((4, 4, 4))
    one, other = speed_up([9, 10, 12], [3, 4, 4], FAR), speed_up([3, 4, 4], [9, 10, 12], FAR)
    assert (one.low, one.high) == pytest.approx((1 / other.high, 1 / other.low))


def test_runs_that_never_get_there_make_it_a_bound():
    slow = speed_up([18, 20, np.inf], [5, 5, 6], (1, 20))
    assert slow.bound == ">"
    assert slow.high == np.inf
    assert 1 < slow.low < slow.value == pytest.approx((18 * 20 * 20 / (5 * 5 * 6)) ** (1 / 3))
    fast = speed_up([20, 20, 19], [5, 9, np.inf], (1, 20))
    assert (fast.bound, fast.low) == ("<", 0)
    at_once = speed_up([20, 18, 19], [0, 0, 0], (0.5, 20))
    assert (at_once.bound, at_once.high) == (">", np.inf)
    assert at_once.value == pytest.approx((20 * 18 * 19) ** (1 / 3) / 0.5)
    assert speed_up([np.inf] * 3, [0] * 3, (0.5, 20)).value == 40  # both say that it is more
    both = speed_up([np.inf, 9, 9], [5, np.inf, 5], (1, 20))
    assert np.isnan(both.value)
    assert [ratio_text(r) for r in (fast, both)] == [f"< {fast.value:.3g} [0, {fast.high:.3g}]", "-"]


def test_one_seed_has_no_interval():
    assert ratio_text(speed_up([20], [5], FAR)) == "4 [no interval]"
    alone = difference(pd.Series([0.5]), pd.Series([0.4]))
    assert (alone.low, alone.high) == (-np.inf, np.inf)
    assert alone.verdict == "open"
    assert DIGITS.gain_text(alone) == "+10.0 [no interval]"


def test_differences_are_between_runs_of_the_same_seed():
    noise = pd.Series([0, 5, -3], index=[0, 1, 2])
    assert difference(noise + 1, noise) == Interval(1, 1, 1)
    assert difference(noise + 1, noise[[2, 0]]).value == 1
    with pytest.raises(SubcloningError, match="no seed in common"):
        difference(noise, pd.Series([1.0], index=[7]))


@pytest.mark.parametrize("others", [[1.0, 1.1], [5.0, 5.1]])
def test_a_diverged_run_is_not_dropped_and_never_better(others):
    lost, whole = pd.Series([np.nan, *others]), pd.Series([1.0, 1.0, 1.1])
    against, favour = difference(lost, whole), difference(whole, lost)
    assert (against.value, favour.value) == (-np.inf, np.inf)
    for found in (against, favour, difference(lost, lost)):
        assert found.verdict == "diverged"
        assert (found.low, found.high) == (-np.inf, np.inf)
        assert TEXT.gain_text(found) == "-"


def test_verdicts():
    assert Interval(2, 1, 3).verdict == "better"
    assert speed_up([8, 8, 9], [4, 4, 4], FAR).verdict == "better"
    assert speed_up([4, 4, 4], [8, 8, 9], FAR).verdict == "worse"
    assert speed_up([4, 5, 6], [6, 5, 4], FAR).verdict == "open"
    assert Interval(-2, -3, -1).verdict == "worse"
    assert Interval(0, 0, 0).verdict == Interval(1, -1, 3).verdict == "open"
