"""What was measured of a claim, and the rule by which it counts as reproduced."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .convergence import BASELINE, quality_text
from .gaps import gaps
from .parents import correlations
from .speedup import Ratio, Study, best_settings, difference, final, speed_up, times_to_target

REPRODUCED, PARTLY, NOT, WAITING = "reproduced", "partly", "not reproduced", "not yet run"
BIGGER = "bigger parent"


@dataclass(frozen=True)
class Evidence:
    """What was measured of one study, in `folder` of experiments.

    runs, grid: as `collect` writes them. bigger: runs of the child of a bigger parent. controls: runs of the arms that
    the paper does not have, with those that they are compared with. gaps: the same over shapes, budgets and parents, in
    a column `case`. blocks, units: what `measure_blocks` and `measure_units` say of the parent.
    """

    name: str
    folder: str
    study: Study
    runs: pd.DataFrame
    grid: pd.DataFrame | None = None
    bigger: pd.DataFrame | None = None
    controls: pd.DataFrame | None = None
    gaps: pd.DataFrame | None = None
    blocks: pd.DataFrame | None = None
    units: pd.DataFrame | None = None


@dataclass(frozen=True)
class Finding:
    """ours: the measured number. seeds: of each arm; 0 where there are none."""

    ours: str
    verdict: str
    seeds: int = 0


def early_speed_up(e: Evidence) -> Finding:
    """Reproduced where the interval is above 1 and reaches 4, or is above that; partly where it is only above 1."""
    ratio = _faster(e, e.study.target, BASELINE, "subclone")
    verdict = NOT if not ratio.low > 1 else REPRODUCED if ratio.high >= 4 else PARTLY
    return Finding(f"{_times(ratio)} to {_target(e)}", verdict, _seeds(e))


def better_end(e: Evidence) -> Finding:
    """Reproduced where the difference at the end of the budget is in favour, with its interval."""
    gain = difference(*(_end(e, init) for init in ("subclone", BASELINE)))
    quality = [quality_text(e.study.sign * _end(e, init).mean(), e.study) for init in ("subclone", BASELINE)]
    return Finding(f"{quality[0]} against {quality[1]}", REPRODUCED if gain.low > 0 else NOT, _seeds(e))


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
    if e.gaps is None:
        return None
    table = gaps(e.gaps, e.study)
    table = table[table["init"] == "principal"]
    better, worse = (table["better_low"] > 0).sum(), (table["better_high"] < 0).sum()
    verdict = REPRODUCED if better == len(table) else PARTLY if better > len(table) / 2 and not worse else NOT
    scale, unit = (100, "points") if e.study.sign > 0 else (1, "nats")
    low, high = (f"{scale * x:+.2g}" for x in (table["better"].min(), table["better"].max()))
    text = f"better in {better} and worse in {worse} of {len(table)}, from {low} to {high} {unit}"
    return Finding(text, verdict, int(table["seeds"].min()))


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
    e = replace(e, runs=runs)
    ratio = _faster(e, e.study.target, other, arm)
    gain = difference(_end(e, arm), _end(e, other))
    sooner, better = ratio.low > 1, gain.low > 0
    worse = ratio.high < 1 or gain.high < 0
    verdict = REPRODUCED if sooner and better else PARTLY if (sooner or better) and not worse else NOT
    end = " against ".join(quality_text(e.study.sign * _end(e, init).mean(), e.study) for init in (arm, other))
    if e.study.sign > 0:
        value, low, high = (f"{100 * number:+.1f}" for number in gain)
        gained = f"{value} points [{low}, {high}]"
    else:
        gained = f"{gain.value:+.3f} nats [{gain.low:+.3f}, {gain.high:+.3f}]"
    untrained = times_to_target(e.runs, e.study, e.study.target)[arm].median() == 0
    reached = f"at {_target(e)} before any training" if untrained else f"{_times(ratio)} to {_target(e)}"
    return Finding(f"{reached}; at the end {end}, {gained}", verdict, _seeds(e))


def _faster(e: Evidence, target: float, slow: str, fast: str) -> Ratio:
    times = times_to_target(e.runs, e.study, target)
    return speed_up(times[slow], times[fast])


def _end(e: Evidence, init: str) -> pd.Series:
    """seed -> the metric at the end, larger is better."""
    return e.study.sign * final(e.runs, e.study)[init].droplevel(["lr", "weight_decay"])


def _target(e: Evidence) -> str:
    text = quality_text(e.study.target, e.study, digits=0)
    return text if e.study.sign > 0 else f"perplexity {text}"


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.3g} times as fast [{ratio.low:.3g}, {ratio.high:.3g}]"


def _seeds(e: Evidence) -> int:
    return int(e.runs.groupby("init")["seed"].nunique().min())
