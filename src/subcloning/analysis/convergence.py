"""Random against subcloned: the table and the figure of a convergence study (paper Fig. 9, 10, 12 and 14)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ..errors import SubcloningError
from .arms import BASELINE, REFERENCE, known
from .intervals import Interval, speed_up
from .speedup import arms, faster, limits, mean_final, needed, setting_of, times_to_target
from .study import Study
from .style import SERIES, figure
from .text import mean_text, ratio_text, reached_text
from .tuning import effort


def convergence_table(runs: pd.DataFrame, study: Study, grid: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per init mode, in the order of `known`, and all cells as text.

    Accuracies and perplexities are of the mean over seeds, at the validations nearest to `study.shown`; times and their
    ratios are geometric means, with `(2/3)` where only so many runs got there. There are two targets: the study's early
    one, and the baseline's mean at the end, which takes the baseline all of the training. That target is itself an
    estimate, so that no interval is given for it. grid: the tuning runs, if it is to be said what was tried.
    """
    parts = arms(runs, study)
    baseline = needed(parts, BASELINE)
    times = sorted(set.intersection(*(set(arm[study.time]) for arm in parts.values())))
    last, end = times[-1], mean_final(baseline, study)
    shown = {times[np.abs(np.subtract(times, near)).argmin()] for near in study.shown if near < last} | {last}
    early = study.target_text
    rows = []
    for init in (arm.name for arm in known(parts)):
        arm = parts[init]
        setting = setting_of(arm)
        row: dict[str, object] = {"init": init, "LR": f"{setting['lr']:g}", "WD": f"{setting['weight_decay']:g}"}
        if grid is not None:
            row["tuning"] = effort(grid, init, **setting)
        row["seeds"] = arm["seed"].nunique()
        for time in sorted(shown):
            at = arm.loc[arm[study.time] == time, study.metric]
            row[f"after {study.time_text(time, digits=0)}"] = mean_text(at, study)
        row[f"{study.time_unit} to {early}"] = reached_text(arm, study, study.target)
        row[f"speed-up to {early}"] = _against(init, faster(arm, baseline, study, study.target))
        row[f"{study.time_unit} to random's final"] = (
            study.time_text(last) if init == BASELINE else reached_text(arm, study, end)
        )
        caught_up = speed_up([last], times_to_target(arm, study, end), limits(arm, study))
        row["speed-up to random's final"] = _against(init, caught_up).removesuffix(" [no interval]")
        rows.append(row)
    return pd.DataFrame(rows)


def _against(init: str, ratio: Interval) -> str:
    return "1" if init == BASELINE else ratio_text(ratio)


def convergence_figure(runs: pd.DataFrame, study: Study) -> Figure:
    """Validation metrics against time: mean over seeds, and the range of the seeds as a band."""
    panels = ("val_perplexity",) if study.sign < 0 else (study.metric, "val_loss")
    fig, axes = figure(columns=len(panels), panels=len(panels))
    parts = arms(runs, study)
    for ax, metric in zip(axes, panels, strict=True):
        for arm in known(parts):
            curve = parts[arm.name].pivot(index=study.time, columns="seed", values=metric)
            low, mean, high = (curve.agg(name, axis=1, skipna=False) for name in ("min", "mean", "max"))
            ax.plot(curve.index, mean, color=arm.ink, label=arm.label)
            ax.fill_between(curve.index, low, high, color=arm.ink, alpha=0.2, linewidth=0)
        label = metric.removeprefix("val_")
        ax.set(xlabel=study.time_unit, ylabel=f"validation {label}", xlim=(0, runs[study.time].max()))
        if study.time == "tokens":
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    if study.sign > 0:
        axes[0].axhline(study.target, color="0.6", linewidth=0.6, linestyle=":")
        axes[1].set_ylim(bottom=0)
    else:
        axes[0].set_yscale("log")
    axes[0].legend()
    return fig


def speed_up_figure(studies: dict[str, tuple[pd.DataFrame, Study]]) -> Figure:
    """The speed-up of subclone over random at each quality that all runs of random reach, and its interval.

    Quality is drawn as the share of the way from the random arm's start to its end.
    """
    if len(studies) > len(SERIES):
        raise SubcloningError(f"{len(studies)} studies, but {len(SERIES)} colours: add to SERIES in analysis/style.py")
    fig, (ax,) = figure()
    for colour, (name, (runs, study)) in zip(SERIES, studies.items(), strict=False):
        parts = arms(runs, study)
        baseline = parts[BASELINE]
        means = study.sign * baseline.groupby(study.time)[study.metric].mean()
        first, gain = means.iloc[0], means.iloc[-1] - means.iloc[0]
        targets = {share: study.sign * (first + share * gain) for share in np.linspace(0.3, 1, 15)}
        found = {share: faster(parts[REFERENCE], baseline, study, target) for share, target in targets.items()}
        ratios = {share: ratio for share, ratio in found.items() if not ratio.bound}
        shares = [*ratios]
        value, low, high = ([getattr(r, end) for r in ratios.values()] for end in ("value", "low", "high"))
        ax.plot(shares, value, color=colour, label=name)
        ax.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.axhline(4, color="0.6", linewidth=0.6, linestyle=":")
    ax.set(xlabel="share of what random weights gain in their budget", ylabel="speed-up", yscale="log")
    ticks = [1, 2, 4, 8, 16, 32, 64]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=6)
    return fig
