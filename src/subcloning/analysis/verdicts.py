"""What was measured of a claim, judged by its rule (which `claims` says in words)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .arms import BASELINE, BIGGER, REFERENCE
from .cases import compare_cases
from .evidence import Evidence
from .intervals import Interval, difference, speed_up
from .parents import correlations
from .speedup import arms, best_settings, final, limits, times_to_target
from .study import Study
from .text import drawn_text, mean_text, ratio_text

REPRODUCED, PARTLY, NOT = "reproduced", "partly", "not reproduced"


@dataclass(frozen=True)
class Finding:
    """ours: the measured number. seeds: of each arm, or parents x seeds; "-" where there are none. intervals: that the
    verdict rests on."""

    ours: str
    verdict: str
    seeds: str = "-"
    intervals: int = 0


def early_speed_up(e: Evidence) -> Finding:
    """Of subclone over random."""
    parts = arms(_most(e, e.runs, REFERENCE, BASELINE), e.study)
    known, found = _sooner(e.study, parts, REFERENCE, BASELINE)
    fast = known.value >= 4 and known.low > 2
    verdict = REPRODUCED if fast else PARTLY if known.verdict == "better" else NOT
    return Finding(found, verdict, _seeds(parts, REFERENCE, BASELINE), 1)


def better_end(e: Evidence) -> Finding:
    """Of subclone against random."""
    parts = arms(_most(e, e.runs, REFERENCE, BASELINE), e.study)
    gain, ends = _gain(e.study, parts, REFERENCE, BASELINE)
    verdict = REPRODUCED if gain.verdict == "better" else NOT
    return Finding(ends, verdict, _seeds(parts, REFERENCE, BASELINE), 1)


def lower_optimum(e: Evidence) -> Finding | None:
    """Of subclone against random, in learning rate and weight decay."""
    if e.grid is None:
        return None
    best = best_settings(e.grid, e.study).loc[[BASELINE, REFERENCE], ["lr", "weight_decay"]]
    factors = best.loc[BASELINE] / best.loc[REFERENCE]
    names = (("LR", best["lr"]), ("WD", best["weight_decay"]))
    text = ", ".join(f"{name} {values[REFERENCE]:g} against {values[BASELINE]:g}" for name, values in names)
    verdict = REPRODUCED if factors.min() >= 4 else PARTLY if factors.min() >= 1 and factors.max() > 1 else NOT
    return Finding(text, verdict, str(e.grid["seed"].nunique()))


def without(ablation: str) -> Callable[[Evidence], Finding | None]:
    """Of subclone against the `ablation` of the same study."""

    def find(e: Evidence) -> Finding | None:
        return _against(e, e.runs, ablation) if ablation in set(e.runs["init"]) else None

    return find


def nearer_parent(e: Evidence) -> Finding | None:
    """Of subclone against the bigger parent's child."""
    if e.bigger is None:
        return None
    return _against(e, pd.concat([e.runs, e.bigger.assign(init=BIGGER.name)]), BIGGER.name)


def better_than(control: str, init: str = REFERENCE) -> Callable[[Evidence], Finding | None]:
    """Of `init` against the `control`."""

    def find(e: Evidence) -> Finding | None:
        if e.controls is None or not {control, init} <= set(e.controls["init"]):
            return None
        return _against(e, e.controls, control, init)

    return find


def better_in_all_cases(e: Evidence) -> Finding | None:
    """Of principal against subclone."""
    if e.cases is None or "principal" not in set(e.cases["init"]):
        return None
    table = compare_cases(e.cases, e.study)
    table = table[table["init"] == "principal"]
    verdicts = [gain.verdict for gain in table["better"]]
    better, worse, lost = (verdicts.count(verdict) for verdict in ("better", "worse", "diverged"))
    most = better > len(table) / 2 and not worse and not lost
    verdict = REPRODUCED if better == len(table) else PARTLY if most else NOT
    values = [f"{e.study.factor * gain.value:+.2g}" for gain in sorted(table["better"], key=lambda gain: gain.value)]
    text = f"better in {better} and worse in {worse} of {len(table)}, from {values[0]} to {values[-1]} {e.study.unit}"
    return Finding(text, verdict, str(table["seeds"].min()), len(table))


def middle_blocks(e: Evidence) -> Finding | None:
    """What removing and duplicating each block costs."""
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
    """The mean rank correlation of two blocks' magnitudes."""
    if e.units is None:
        return None
    table = correlations(e.units).to_numpy()
    pairs = table[np.triu_indices_from(table, 1)]
    verdict = REPRODUCED if pairs.mean() >= 0.7 else PARTLY if pairs.mean() >= 0.3 else NOT
    return Finding(f"mean {pairs.mean():.2f}, from {pairs.min():.2f} to {pairs.max():.2f}", verdict)


def _against(e: Evidence, runs: pd.DataFrame, other: str, arm: str = REFERENCE) -> Finding:
    """How much better `arm` is than `other`: sooner at the early target, and better at the end."""
    parts = arms(_most(e, runs, arm, other), e.study)
    known, reached = _sooner(e.study, parts, arm, other)
    gain, ends = _gain(e.study, parts, arm, other)
    both = {known.verdict, gain.verdict}
    verdict = REPRODUCED if both == {"better"} else PARTLY if "better" in both and "worse" not in both else NOT
    return Finding(f"{reached}; at the end {ends}", verdict, _seeds(parts, arm, other), 2)


def _sooner(study: Study, parts: dict[str, pd.DataFrame], arm: str, other: str) -> tuple[Interval, str]:
    """How many times sooner `arm` is at the early target, as far as it was seen; and that with what is interpolated.

    Between the start and the first validation, where a curve is steepest, a time is a guess: a run that is there by its
    first validation counts as there at it, but for one that is there before any training.
    """
    guessed = [times_to_target(parts[init], study, study.target) for init in (arm, other)]
    first = max(runs.loc[runs[study.time] > 0, study.time].min() for runs in (parts[arm], parts[other]))
    seen = [times.where((times == 0) | (times >= first), first) for times in guessed]
    early = [now > then for now, then in zip(seen, guessed, strict=True)]
    ratio, known = (speed_up(times[1], times[0], limits(parts[arm], study)) for times in (guessed, seen))
    at = study.target_text
    if (guessed[0] == 0).all():
        return known, f"at {at} before any training"
    if all(runs.all() for runs in early):
        return known, f"both at {at} by their first validation"
    text = f"{ratio_text(ratio, ' times as fast')} to {at}"
    if any(runs.any() for runs in early):
        text += f"; {ratio_text(known)} if not before a first validation"
    return known, text


def _gain(study: Study, parts: dict[str, pd.DataFrame], arm: str, other: str) -> tuple[Interval, str]:
    """How much better `arm` is than `other` at the end, and both of their means with it as text."""
    mine, others = (final(parts[init], study) for init in (arm, other))
    gain = difference(study.sign * mine, study.sign * others)
    ends = f"{mean_text(mine, study)} against {mean_text(others, study)}"
    return gain, ends if gain.verdict == "diverged" else f"{ends}, {study.gain_text(gain, f' {study.unit}')}"


def _most(e: Evidence, runs: pd.DataFrame, *inits: str) -> pd.DataFrame:
    """Runs over several parents, where those have these arms; else `runs`, which are of one."""
    return e.parents if e.parents is not None and {*inits} <= set(e.parents["init"]) else runs


def _seeds(parts: dict[str, pd.DataFrame], *inits: str) -> str:
    return drawn_text(min((parts[init] for init in inits), key=lambda arm: arm["seed"].nunique()))
