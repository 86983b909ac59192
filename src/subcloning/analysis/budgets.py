"""Where does the speed-up go as training grows longer? Runs of several budgets, each with a schedule of its own."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from .arms import ARMS, BASELINE, known
from .intervals import LEVEL, Interval, difference, speed_up
from .speedup import arms, faster, final, limits, setting_of, times_to_target
from .study import Study
from .style import figure, plain_log
from .text import mean_text, ratio_text
from .tuning import effort

UNKNOWN = Interval(np.nan, 0.0, np.inf, neutral=1.0)


def by_budget(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Each arm of each budget, a `case` of `runs`, against random weights at that budget.

    Columns: case, budget (in the study's time), init, lr, weight_decay, seeds, ends (as text), and `Interval`s of how
    many times sooner it is there: early, at the early target; same, where random of its seed ends, on the arm's
    schedule of the same budget; own, the same with the arm's schedule as short as that takes (`_own_schedule`).
    """
    parts = {case: arms(own.drop(columns="case"), study) for case, own in runs.groupby("case", sort=False)}
    budgets: dict[Any, float] = {case: limits(own[BASELINE], study)[1] for case, own in parts.items()}
    rows = []
    for case in sorted(budgets, key=lambda case: budgets[case]):
        baseline = parts[case][BASELINE]
        for init in (arm.name for arm in known(parts[case]) if arm.name != BASELINE):
            arm = parts[case][init]
            mine, others = (mean_text(final(some, study), study) for some in (arm, baseline))
            shorter = {budgets[other]: own[init] for other, own in parts.items() if init in own}
            rows.append(
                {
                    "case": case,
                    "budget": budgets[case],
                    "init": init,
                    **setting_of(arm),
                    "seeds": arm["seed"].nunique(),
                    "ends": f"{mine} against {others}",
                    "early": faster(arm, baseline, study, study.target),
                    "same": _same_schedule(arm, baseline, study),
                    "own": _own_schedule(shorter, baseline, study),
                }
            )
    return pd.DataFrame(rows)


def _same_schedule(arm: pd.DataFrame, baseline: pd.DataFrame, study: Study) -> Interval:
    """How many times sooner each run of `arm` is where the baseline's run of its seed ends."""
    ends = final(baseline, study)
    if ends.isna().any():
        return UNKNOWN
    own = {seed: run for seed, run in arm.groupby("seed") if seed in ends.index}
    times = [times_to_target(run, study, ends[seed]).iloc[0] for seed, run in own.items()]
    last = limits(baseline, study)[1]
    return speed_up([last] * len(times), times, limits(arm, study))


def _own_schedule(shorter: dict[float, pd.DataFrame], baseline: pd.DataFrame, study: Study) -> Interval:
    """The baseline's budget over that at whose end the arm would be where the baseline ends, seed by seed.

    shorter: budget -> the arm's runs. Between two budgets the end is interpolated over the logarithm of the budget. A
    lower bound where the arm is there with its smallest budget, an upper one where it is not with its largest.
    """
    budgets = np.sort([*shorter])
    ends = pd.DataFrame({budget: study.sign * final(shorter[budget], study) for budget in budgets})
    curves = dict(zip(ends.index, ends.to_numpy(), strict=True))
    goals = study.sign * final(baseline, study)
    if ends.isna().any(axis=None) or goals.isna().any():
        return UNKNOWN
    logs, bounds = {}, set()
    for seed, end in goals.items():
        if seed in curves:
            curve = curves[seed]
            there = np.flatnonzero(curve >= end)
            i = there[0] if len(there) else len(curve) - 1
            at = np.log(budgets[i])
            if not len(there):
                bounds.add("<")
            elif i == 0:
                bounds.add(">")
            else:
                share = (end - curve[i - 1]) / (curve[i] - curve[i - 1])
                at = np.log(budgets[i - 1]) + share * np.log(budgets[i] / budgets[i - 1])
            logs[seed] = np.log(limits(baseline, study)[1]) - at
    if len(bounds) > 1:
        return UNKNOWN
    series = pd.Series(logs)
    found = difference(series, series * 0)
    value, low, high = (float(np.exp(end)) for end in (found.value, found.low, found.high))
    low, high = 0.0 if "<" in bounds else low, np.inf if ">" in bounds else high
    bound: Any = next(iter(bounds), "")
    return Interval(value, low, high, bound, neutral=1.0)


def _estimates(table: pd.DataFrame, init: str, which: str) -> pd.DataFrame:
    """The rows of an arm whose ratio is more than a bound."""
    known_ratio = pd.Series([not ratio.bound and bool(np.isfinite(ratio.value)) for ratio in table[which]], table.index)
    return table[(table["init"] == init) & known_ratio]


def trend(table: pd.DataFrame, init: str, which: str) -> Interval | None:
    """By what the speed-up `which` of an arm in `by_budget` is multiplied where the budget doubles; None below three.

    A line by least squares through each budget's value, bounds left out; its slope's interval by Student's t.
    """
    own = _estimates(table, init, which)
    if len(own) < 3:
        return None
    line = stats.linregress(np.log2(own["budget"]), [np.log2(ratio.value) for ratio in own[which]])
    half = stats.t.ppf((1 + LEVEL) / 2, len(own) - 2) * line.stderr
    value, low, high = (float(2.0**slope) for slope in (line.slope, line.slope - half, line.slope + half))
    return Interval(value, low, high, neutral=1.0)


def budgets_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """`by_budget` as text. grid: the tuning runs, with a column `case` too."""
    rows = []
    for row in by_budget(runs, study).to_dict("records"):
        tried = None if grid is None else grid[grid["case"] == row["case"]]
        rows.append(
            {
                f"random's budget, {study.time_unit}": study.time_text(row["budget"], digits=0),
                "init": f"`{row['init']}`",
                "LR": f"{row['lr']:g}",
                "tuning": "-" if tried is None else effort(tried, row["init"], row["lr"], row["weight_decay"]),
                "seeds": row["seeds"],
                "at the end, against random": row["ends"],
                f"times as fast to {study.target_text}": ratio_text(row["early"]),
                "to random's end, same schedule": ratio_text(row["same"]),
                "its own schedule": ratio_text(row["own"]),
            }
        )
    return pd.DataFrame(rows)


def trends_table(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """`trend` of each arm, as text."""
    table = by_budget(runs, study)
    names = {"early": "to the early target", "same": "to random's end, same schedule", "own": "its own schedule"}
    rows = []
    for init in table["init"].unique():
        found = {name: trend(table, init, which) for which, name in names.items()}
        cells = {name: ratio_text(line) if line else "-" for name, line in found.items()}
        rows.append({"init": f"`{init}`", **cells})
    return pd.DataFrame(rows)


def payback_table(runs: pd.DataFrame, study: Study, cost: pd.DataFrame) -> pd.DataFrame:
    """After how many children has a parent paid for itself that was trained for them alone?

    cost: what experiments/budgets/cost.py writes: columns what (parent, or an init mode) and time, of the child's
    training. A child saves what random weights need more than it to get to their end, on its own schedule, less
    scoring and surgery. For the arms in `cost`.
    """
    spent = cost.set_index("what")["time"].to_dict()
    rows = []
    for row in by_budget(runs, study).to_dict("records"):
        if row["init"] not in spent:
            continue
        budget, own, fill = row["budget"], row["own"], spent[row["init"]]
        with np.errstate(divide="ignore"):  # the low end of a bound is 0
            saved, most, least = (float(budget - np.divide(budget, r) - fill) for r in (own.value, own.high, own.low))
        few, many = (spent["parent"] / time if time > 0 else np.inf for time in (most, least))
        bound = {">": "< ", "<": "> "}.get(own.bound, "")
        said, paid = f"{own.bound} {study.time_text(saved)}".strip(), "never"
        if np.isnan(saved) or (saved <= 0 and own.bound == ">"):  # more than nothing, or than less, is not known
            said, paid = "-", "-"
        elif saved > 0:
            paid = f"{bound}{_rounded(spent['parent'] / saved)} [{_rounded(few)}, {_rounded(many)}]"
        rows.append(
            {
                f"random's budget, {study.time_unit}": study.time_text(budget, digits=0),
                "init": f"`{row['init']}`",
                "scoring and surgery": study.time_text(fill),
                "its own schedule": ratio_text(own),
                f"{study.time_unit} saved by a child": said,
                f"children that pay for the parent ({study.time_text(spent['parent'], digits=0)})": paid,
            }
        )
    return pd.DataFrame(rows)


def _rounded(children: float) -> str:
    """Up, since there are whole children only."""
    return f"{np.ceil(children):.0f}"


def budgets_figure(runs: pd.DataFrame, study: Study) -> Figure:
    """The end over the budget, and the speed-up to random's end over random's budget, with intervals.

    Dotted: on the same schedule. Triangles: lower bounds, where an arm's shortest schedule is enough.
    """
    fig, (left, right) = figure(columns=2, panels=2)
    ends = []
    for _, own in runs.groupby("case", sort=False):
        for init, arm in arms(own.drop(columns="case"), study).items():
            values = final(arm, study)
            ends.append((limits(arm, study)[1], init, values.mean(), values.min(), values.max()))
    table = pd.DataFrame(ends, columns=["budget", "init", "mean", "low", "high"]).sort_values("budget")
    for arm_ in known(table["init"]):
        line = table[table["init"] == arm_.name]
        left.plot(line["budget"], line["mean"], marker=".", color=arm_.ink, label=arm_.label)
        left.fill_between(line["budget"], line["low"], line["high"], color=arm_.ink, alpha=0.2, linewidth=0)
    found = by_budget(runs, study)
    for init in found["init"].unique():
        for which, dash in (("same", ":"), ("own", "-")):
            line = _estimates(found, init, which)
            value, low, high = ([getattr(r, end) for r in line[which]] for end in ("value", "low", "high"))
            label = ARMS[init].label if which == "own" else None
            right.plot(line["budget"], value, dash, marker=".", color=ARMS[init].ink, label=label)
            if which == "own":
                right.vlines(line["budget"], low, high, color=ARMS[init].ink, alpha=0.4)  # a budget may stand alone
        own = found[found["init"] == init].set_index("budget")["own"]
        least = {budget: ratio.value for budget, ratio in own.items() if ratio.bound == ">"}
        right.plot([*least], [*least.values()], "^", color=ARMS[init].ink, markersize=4)
    metric = study.metric.removeprefix("val_")
    left.set(xlabel=f"budget, {study.time_unit}", ylabel=f"validation {metric} at the end")
    right.set(xlabel=f"random's budget, {study.time_unit}", ylabel="times as fast to random's end")
    plain_log(left.xaxis, right.xaxis, right.yaxis)
    right.axhline(4, color="0.6", linewidth=0.6, linestyle=":")
    left.legend()
    return fig
