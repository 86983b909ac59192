"""How much faster? What a study is judged by, its arms, and their times to a target."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import SubcloningError
from .intervals import Interval, speed_up
from .study import Study

SETTING = ["init", "lr", "weight_decay"]


def run_of(runs: pd.DataFrame) -> list[str]:
    """What tells the runs of one setting apart: their seeds, or their parents and seeds."""
    return ["parent", "seed"] if "parent" in runs else ["seed"]


def of_parents(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs`, of which each case is a parent, as runs of one study over parents."""
    return runs.rename(columns={"case": "parent"})


def whole(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`runs` in order of time, if they can be compared: all of one length, and each validated as often as its arm.

    A metric that is not finite becomes NaN: such a run diverged, and must stay so. Raises SubcloningError otherwise.
    """
    runs = runs.sort_values(study.time, kind="stable")
    runs = runs.assign(**{study.metric: runs[study.metric].where(np.isfinite(runs[study.metric]))})
    last, times = runs[study.time].max(), runs.groupby("init")[study.time].unique()
    keys = [*SETTING, *run_of(runs)]
    key: Any
    for key, run in runs.groupby(keys, sort=False):
        name = " ".join(
            f"{of}={value:g}" if of in SETTING[1:] else f"{of}={value}" for of, value in zip(keys, key, strict=True)
        )
        own, wanted = run[study.time].to_numpy(), times[key[0]]
        if own[-1] != last:
            raise SubcloningError(
                f"{name} ends at {study.time} {own[-1]:g}, others at {last:g}: finish it, or leave it out"
            )
        if len(own) != len(wanted):
            raise SubcloningError(
                f"{name} has {len(own)} validations, of {len(wanted)} different times in its arm: all of an arm must "
                "be validated at the same times, each once; run it again, or leave it out"
            )
        lost = run[study.metric].isna().to_numpy()
        if (lost[:-1] & ~lost[1:]).any():
            raise SubcloningError(
                f"{name} has no {study.metric} at {study.time} {own[lost.argmax()]:g}, but one later: run it again"
            )
    return runs


def arms(runs: pd.DataFrame, study: Study) -> dict[str, pd.DataFrame]:
    """The runs of each init mode, for all that compares them: `whole`, and of one learning rate and weight decay."""
    parts = {str(init): arm for init, arm in whole(runs, study).groupby("init", sort=False)}
    for init, arm in parts.items():
        for name in SETTING[1:]:
            found = sorted(map(float, arm[name].unique()))
            if len(found) > 1:
                raise SubcloningError(
                    f"an arm must have one {name}, found {found} of init={init}: remove the runs that are not tuned"
                )
    return parts


def needed(parts: dict[str, pd.DataFrame], init: str) -> pd.DataFrame:
    """The arm that others are compared with. Raises SubcloningError if it is not there."""
    if init not in parts:
        raise SubcloningError(f"no runs with init={init}, which the others are compared with: run them too")
    return parts[init]


def setting_of(arm: pd.DataFrame) -> dict[str, float]:
    """Learning rate and weight decay of the runs of one setting."""
    return {name: float(arm[name].iloc[0]) for name in SETTING[1:]}


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


def times_to_target(arm: pd.DataFrame, study: Study, target: float) -> pd.Series:
    """Seed, or (parent, seed), -> time to `target` of the runs of one setting; a run that diverges never gets there."""

    def time(run: pd.DataFrame) -> float:
        if run[study.metric].isna().any():
            return np.inf
        return time_to_target(run[study.time], study.sign * run[study.metric], study.sign * target)

    of = run_of(arm)
    return pd.Series({key: time(run) for key, run in arm.groupby(of if len(of) > 1 else of[0])})


def final(arm: pd.DataFrame, study: Study) -> pd.Series:
    """Seed, or (parent, seed), -> the metric at the end of the runs of one setting; NaN if it diverged."""
    return arm[arm[study.time] == arm[study.time].max()].set_index(run_of(arm))[study.metric]


def mean_final(arm: pd.DataFrame, study: Study) -> float:
    """NaN where a run diverged."""
    return float(final(arm, study).mean(skipna=False))


def limits(arm: pd.DataFrame, study: Study) -> tuple[float, float]:
    """One training step, and the end of training, in the study's time."""
    last = arm[study.time].max()
    return last / arm["step"].max(), last


def faster(arm: pd.DataFrame, baseline: pd.DataFrame, study: Study, target: float) -> Interval:
    """How many times sooner `arm` is at `target` than `baseline`."""
    before, now = (times_to_target(runs, study, target) for runs in (baseline, arm))
    return speed_up(before, now, limits(arm, study))


def settings(grid: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Each setting in `grid`: init, lr, weight_decay, seeds (how many runs), and the means over them of time and final.

    time is to the early target; it is infinite, and final NaN, where one of the runs did not get there or diverged.
    """
    rows = []
    for setting, own in whole(grid, study).groupby(SETTING):
        values = {"time": times_to_target(own, study, study.target).to_numpy().mean(), "final": mean_final(own, study)}
        rows.append(dict(zip(SETTING, setting, strict=True)) | {"seeds": own.groupby(run_of(own)).ngroups} | values)
    return pd.DataFrame(rows)


def best_settings(grid: pd.DataFrame, study: Study, *, drop_fewer: bool = False) -> pd.DataFrame:
    """Each init mode's best learning rate and weight decay, by what the study is `tuned_for`.

    The paper, too, tunes each mode by itself. grid: runs over lr and weight_decay. The mean over seeds counts, so that
    a setting pays for each slow seed; ties, also of settings that never get there, go to the better final value, and
    then to the lower learning rate.
    Returns lr, weight_decay, time and final, indexed by init. Raises SubcloningError if the settings of a mode were not
    tried on equally many seeds: with fewer, chance has more of a say. With `drop_fewer` those are left out instead.
    """
    table = settings(grid, study)
    if drop_fewer:
        table = table[table["seeds"] == table.groupby("init")["seeds"].transform("max")].copy()
    for init, own in table.groupby("init"):
        most, short = own["seeds"].max(), own.sort_values("seeds", kind="stable").iloc[0]
        if short["seeds"] < most:
            raise SubcloningError(
                f"init={init} was tried on {most} seeds, but with lr={short['lr']:g} weight_decay="
                f"{short['weight_decay']:g} on {short['seeds']}: finish the grid, or leave that setting out"
            )
    table["lost"] = (-study.sign * table["final"]).fillna(np.inf)
    ranked = table.sort_values(["time", "lost"] if study.tuned_for == "time" else ["lost"], kind="stable")
    return ranked.drop_duplicates("init").sort_values("init").set_index("init")[["lr", "weight_decay", "time", "final"]]
