"""What was measured of a claim, and the rule by which it counts as reproduced."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .cases import compare_cases
from .convergence import BASELINE
from .intervals import Interval, difference
from .parents import correlations
from .speedup import arms, best_settings, faster, final, times_to_target
from .study import Study
from .text import gain_scale, gain_text, mean_text, ratio_text, target_text

REPRODUCED, PARTLY, NOT, WAITING = "reproduced", "partly", "not reproduced", "not yet run"
BIGGER = "bigger parent"


@dataclass(frozen=True)
class Evidence:
    """What was measured of one study, in `folder` of experiments.

    runs, grid: as `collect` writes them. bigger: runs of the child of a bigger parent. controls: runs of the arms that
    the paper does not have, with those that they are compared with. cases: the same over shapes, budgets and parents,
    in a column `case`. bigger_grid, controls_grid, cases_grid: the tuning runs of these.
    blocks, units: what `measure_blocks` and `measure_units` say of the parent.
    """

    name: str
    folder: str
    study: Study
    runs: pd.DataFrame
    grid: pd.DataFrame | None = None
    bigger: pd.DataFrame | None = None
    controls: pd.DataFrame | None = None
    cases: pd.DataFrame | None = None
    bigger_grid: pd.DataFrame | None = None
    controls_grid: pd.DataFrame | None = None
    cases_grid: pd.DataFrame | None = None
    blocks: pd.DataFrame | None = None
    units: pd.DataFrame | None = None


@dataclass(frozen=True)
class Finding:
    """ours: the measured number. seeds: of each arm; 0 where there are none. intervals: that the verdict rests on."""

    ours: str
    verdict: str
    seeds: int = 0
    intervals: int = 0


def early_speed_up(e: Evidence) -> Finding:
    """Reproduced where the ratio is at least 4 and its interval above 2, so that a wide one does not help; partly where
    the interval is above 1.
    """
    parts = arms(e.runs, e.study)
    ratio = faster(parts["subclone"], parts[BASELINE], e.study, e.study.target)
    verdict = NOT if not ratio.low > 1 else REPRODUCED if ratio.value >= 4 and ratio.low > 2 else PARTLY
    return Finding(f"{_times(ratio)} to {target_text(e.study)}", verdict, _seeds(parts, "subclone", BASELINE), 1)


def better_end(e: Evidence) -> Finding:
    """Reproduced where the difference at the end of the budget is in favour, with its interval."""
    parts = arms(e.runs, e.study)
    gain, ends = _gain(e.study, parts, "subclone", BASELINE)
    return Finding(ends, REPRODUCED if gain.low > 0 else NOT, _seeds(parts, "subclone", BASELINE), 1)


def lower_optimum(e: Evidence) -> Finding | None:
    """Reproduced where both are at most a quarter of random's; partly where one is lower and the other no higher."""
    if e.grid is None:
        return None
    best = best_settings(e.grid, e.study).loc[[BASELINE, "subclone"], ["lr", "weight_decay"]]
    factors = best.loc[BASELINE] / best.loc["subclone"]
    text = ", ".join(
        f"{name} {best.loc['subclone', key]:g} against {best.loc[BASELINE, key]:g}"
        for name, key in (("LR", "lr"), ("WD", "weight_decay"))
    )
    verdict = REPRODUCED if factors.min() >= 4 else PARTLY if factors.min() >= 1 and factors.max() > 1 else NOT
    return Finding(text, verdict, e.grid["seed"].nunique())


def without(ablation: str) -> Callable[[Evidence], Finding | None]:
    """Reproduced where subclone is sooner at the early target and better at the end, both with their intervals; partly
    where one is in favour and the other open; not where one speaks against it, or neither in favour.
    """

    def find(e: Evidence) -> Finding | None:
        return _against(e, e.runs, ablation) if ablation in set(e.runs["init"]) else None

    find.__doc__ = without.__doc__
    return find


def nearer_parent(e: Evidence) -> Finding | None:
    """Judged as the two ablations, with the bigger parent's child in the place of the ablation."""
    if e.bigger is None:
        return None
    return _against(e, pd.concat([e.runs, e.bigger.assign(init=BIGGER)]), BIGGER)


def better_than(control: str, init: str = "subclone") -> Callable[[Evidence], Finding | None]:
    """Yes where it is sooner at the early target and better at the end, both with their intervals; partly where one is
    in favour and the other open; no where one speaks against it, or neither in favour.
    """

    def find(e: Evidence) -> Finding | None:
        if e.controls is None or not {control, init} <= set(e.controls["init"]):
            return None
        return _against(e, e.controls, control, init)

    find.__doc__ = better_than.__doc__
    return find


def better_in_all_cases(e: Evidence) -> Finding | None:
    """Yes where it is better at the end, with its interval, in every case; partly where in most, and worse in none."""
    if e.cases is None or "principal" not in set(e.cases["init"]):
        return None
    table = compare_cases(e.cases, e.study)
    table = table[table["init"] == "principal"]
    verdicts = [gain.verdict for gain in table["better"]]
    better, worse, lost = (verdicts.count(verdict) for verdict in ("better", "worse", "diverged"))
    most = better > len(table) / 2 and not worse and not lost
    verdict = REPRODUCED if better == len(table) else PARTLY if most else NOT
    unit, scale, _ = gain_scale(e.study)
    values = [f"{scale * gain.value:+.2g}" for gain in sorted(table["better"], key=lambda gain: gain.value)]
    text = f"better in {better} and worse in {worse} of {len(table)}, from {values[0]} to {values[-1]} {unit}"
    return Finding(text, verdict, int(table["seeds"].min()), len(table))


def middle_blocks(e: Evidence) -> Finding | None:
    """Reproduced where removing, and duplicating, cost least in the middle: at no end, and less than the ends do."""
    if e.blocks is None:
        return None
    middle = []
    for name in ("removed", "duplicated"):
        cost = (e.blocks[name] - e.blocks["loss"]).to_numpy()
        middle.append(0 < cost.argmin() < len(cost) - 1 and cost[1:-1].mean() < cost[[0, -1]].mean())
    removed, duplicated = (e.blocks[name].idxmin() for name in ("removed", "duplicated"))
    text = f"of {len(e.blocks)} blocks (from 0), {removed} costs least to remove and {duplicated} to duplicate"
    return Finding(text, REPRODUCED if all(middle) else PARTLY if any(middle) else NOT)


def correlated_layers(e: Evidence) -> Finding | None:
    """Reproduced where the mean rank correlation of two blocks' magnitudes is 0.7 or more; partly from 0.3."""
    if e.units is None:
        return None
    table = correlations(e.units).to_numpy()
    pairs = table[np.triu_indices_from(table, 1)]
    verdict = REPRODUCED if pairs.mean() >= 0.7 else PARTLY if pairs.mean() >= 0.3 else NOT
    return Finding(f"mean {pairs.mean():.2f}, from {pairs.min():.2f} to {pairs.max():.2f}", verdict)


def _against(e: Evidence, runs: pd.DataFrame, other: str, arm: str = "subclone") -> Finding:
    """How much better `arm` is than `other`: sooner at the early target, and better at the end."""
    parts = arms(runs, e.study)
    ratio = faster(parts[arm], parts[other], e.study, e.study.target)
    gain, ends = _gain(e.study, parts, arm, other)
    sooner, better = ratio.low > 1, gain.low > 0
    worse = ratio.high < 1 or gain.high < 0
    verdict = REPRODUCED if sooner and better else PARTLY if (sooner or better) and not worse else NOT
    untrained = (times_to_target(parts[arm], e.study, e.study.target) == 0).all()
    target = target_text(e.study)
    reached = f"at {target} before any training" if untrained else f"{_times(ratio)} to {target}"
    return Finding(f"{reached}; at the end {ends}", verdict, _seeds(parts, arm, other), 2)


def _gain(study: Study, parts: dict[str, pd.DataFrame], arm: str, other: str) -> tuple[Interval, str]:
    """How much better `arm` is than `other` at the end, and both of their means with it as text."""
    last = [final(parts[init], study) for init in (arm, other)]
    gain = difference(*(study.sign * values for values in last))
    ends = " against ".join(mean_text(values, study) for values in last)
    if gain.verdict == "diverged":
        return gain, ends
    value, interval = gain_text(gain, study).split(" ", 1)
    return gain, f"{ends}, {value} {gain_scale(study)[0]} {interval}"


def _times(ratio: Interval) -> str:
    value, *interval = ratio_text(ratio).split(" [")
    return " [".join([f"{value} times as fast", *interval])


def _seeds(parts: dict[str, pd.DataFrame], *inits: str) -> int:
    return min(parts[init]["seed"].nunique() for init in inits)
