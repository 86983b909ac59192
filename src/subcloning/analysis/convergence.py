"""Random against subcloned: the table and the figure of a convergence study (paper Fig. 9, 10, 12 and 14)."""

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from ..axes import SubcloningError
from .speedup import Ratio, Study, final, speed_up, times_to_target
from .style import COLOURS, LABELS, SERIES, figure

BASELINE = "random"


def convergence_table(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per init mode, in the order of `LABELS`, and all cells as text.

    Accuracies and perplexities are of the mean over seeds; times are medians, with `(2/3)` where only so many runs got
    there. There are two targets: the study's early one, and the baseline's own final quality (its median over seeds).
    """
    if BASELINE not in set(runs["init"]):
        raise SubcloningError(f"no runs with init={BASELINE}, which the others are compared with: run them too")
    last = runs[study.time].max()
    end = final(runs, study).groupby("init").median()[BASELINE]
    early = quality_text(study.target, study, digits=0)
    targets = {early if study.sign > 0 else f"perplexity {early}": study.target, "random's final": end}
    times = {name: times_to_target(runs, study, value) for name, value in targets.items()}
    unit = {"epoch": "epochs"}.get(study.time, study.time)
    rows = []
    for init in [label for label in LABELS if label in set(runs["init"])]:
        arm = runs[runs["init"] == init]
        row = {"init": init, "LR": _one(arm["lr"]), "WD": _one(arm["weight_decay"]), "seeds": arm["seed"].nunique()}
        for time in (*(shown for shown in study.shown if shown < last), last):
            mean = arm.loc[arm[study.time] == time, study.metric].mean()
            row[f"after {time_text(time, study, digits=0)}"] = quality_text(mean, study)
        for name, time in times.items():
            mine = time[init]
            reached, median = np.isfinite(mine).sum(), mine.median()
            count = "" if reached == len(mine) else f" ({reached}/{len(mine)})"
            text = time_text(median, study) if np.isfinite(median) else f"> {time_text(last, study, digits=0)}"
            row[f"{unit} to {name}"] = text + count
            row[f"speed-up to {name}"] = "1" if init == BASELINE else _text(speed_up(time[BASELINE], mine))
        rows.append(row)
    return pd.DataFrame(rows)


def quality_text(value: float, study: Study, digits: int = 1) -> str:
    """An accuracy in per cent; a loss as perplexity."""
    return f"{value:.{digits}%}" if study.sign > 0 else f"{np.exp(value):.{digits}f}"


def time_text(value: float, study: Study, digits: int = 1) -> str:
    """Epochs; tokens in thousands."""
    return f"{value:.{digits}f}" if study.time == "epoch" else f"{value / 1000:.0f}k"


def convergence_figure(runs: pd.DataFrame, study: Study):
    """Validation metrics against time: mean over seeds, and the range of the seeds as a band."""
    panels = {"val_accuracy": "accuracy", "val_loss": "loss"} if study.sign > 0 else {"val_perplexity": "perplexity"}
    fig, axes = figure(columns=len(panels), panels=len(panels))
    for ax, (metric, label) in zip(axes, panels.items(), strict=True):
        for init in [name for name in LABELS if name in set(runs["init"])]:
            curve = runs[runs["init"] == init].groupby(study.time)[metric].agg(["mean", "min", "max"])
            ax.plot(curve.index, curve["mean"], color=COLOURS[init], label=LABELS[init])
            ax.fill_between(curve.index, curve["min"], curve["max"], color=COLOURS[init], alpha=0.2, linewidth=0)
        unit = {"epoch": "epochs"}.get(study.time, study.time)
        ax.set(xlabel=unit, ylabel=f"validation {label}", xlim=(0, runs[study.time].max()))
        if study.time == "tokens":
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    if study.sign > 0:
        axes[0].axhline(study.target, color="0.6", linewidth=0.6, linestyle=":")
        axes[1].set_ylim(bottom=0)
    else:
        axes[0].set_yscale("log")
    axes[0].legend()
    return fig


def speed_up_figure(studies: dict[str, tuple[pd.DataFrame, Study]]):
    """The speed-up of subclone over random at each quality that random reaches, and its interval.

    Quality is drawn as the share of the way from the random arm's start to its end.
    """
    fig, (ax,) = figure()
    for colour, (name, (runs, study)) in zip(SERIES, studies.items(), strict=False):
        means = study.sign * runs[runs["init"] == BASELINE].groupby(study.time)[study.metric].mean()
        shares = np.linspace(0.3, 1, 15)
        ratios = []
        for target in means.iloc[0] + shares * (means.iloc[-1] - means.iloc[0]):
            times = times_to_target(runs, study, study.sign * target)
            ratios.append(speed_up(times[BASELINE], times["subclone"], resamples=2000))
        value, low, high = (np.array(part) for part in zip(*ratios, strict=True))
        known = np.isfinite(value) & np.isfinite(low)
        ax.plot(shares[known], value[known], color=colour, label=name)
        top = np.where(np.isfinite(high), high, value)
        ax.fill_between(shares[known], low[known], top[known], color=colour, alpha=0.15, linewidth=0)
    ax.axhline(4, color="0.6", linewidth=0.6, linestyle=":")
    ax.set(xlabel="share of what random weights gain in their budget", ylabel="speed-up", yscale="log")
    ticks = [1, 2, 4, 8, 16, 32, 64]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=6)
    return fig


def _one(values: pd.Series) -> str:
    if values.nunique() != 1:
        raise SubcloningError(
            f"an arm must have one {values.name}, found {sorted(values.unique())}: remove the runs that are not tuned"
        )
    return f"{values.iloc[0]:g}"


def _text(ratio: Ratio) -> str:
    if not np.isfinite(ratio.value) or not ratio.value:
        return "-"
    interval = "no interval" if np.isnan(ratio.low) else f"{ratio.low:.1f}, {ratio.high:.1f}"
    return f"{ratio.value:.1f} [{interval}]"
