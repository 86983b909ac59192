"""Random against subcloned: the table and the figure of a convergence study (paper Fig. 9, 12 and 14)."""

import numpy as np
import pandas as pd

from ..axes import SubcloningError
from .speedup import Ratio, speed_up, times_to_target
from .style import COLOURS, LABELS, figure

BASELINE = "random"


def convergence_table(runs: pd.DataFrame, target: float, metric: str = "val_accuracy") -> pd.DataFrame:
    """One row per init mode, in the order of `LABELS`, and all cells as text.

    Accuracies are means over seeds; epochs are medians, with `(2/3)` where only so many runs got there. There are two
    targets: `target`, and the baseline's own final quality (its median over seeds).
    """
    last = runs["epoch"].max()
    final = runs[runs["epoch"] == last].groupby("init")[metric]
    targets = {f"{target:.0%}": target, "random's final": final.median()[BASELINE]}
    times = {name: times_to_target(runs, value, metric) for name, value in targets.items()}
    rows = []
    for init in [label for label in LABELS if label in set(runs["init"])]:
        arm = runs[runs["init"] == init]
        row = {"init": init, "LR": _one(arm["lr"]), "WD": _one(arm["weight_decay"]), "seeds": arm["seed"].nunique()}
        for epoch in (0, 1, 2, 5, last):
            row[f"after {epoch}"] = f"{arm.loc[arm['epoch'] == epoch, metric].mean():.1%}"
        for name, time in times.items():
            mine = time[init]
            reached, median = np.isfinite(mine).sum(), mine.median()
            count = "" if reached == len(mine) else f" ({reached}/{len(mine)})"
            row[f"epochs to {name}"] = (f"{median:.1f}" if np.isfinite(median) else f"> {last}") + count
            row[f"speed-up to {name}"] = "1" if init == BASELINE else _text(speed_up(time[BASELINE], mine))
        rows.append(row)
    return pd.DataFrame(rows)


def convergence_figure(runs: pd.DataFrame, target: float | None = None):
    """Validation accuracy and loss against epochs: mean over seeds, and the range of the seeds as a band."""
    fig, axes = figure(columns=2, panels=2)
    for ax, metric, label in zip(axes, ("val_accuracy", "val_loss"), ("accuracy", "loss"), strict=True):
        for init in [name for name in LABELS if name in set(runs["init"])]:
            curve = runs[runs["init"] == init].groupby("epoch")[metric].agg(["mean", "min", "max"])
            ax.plot(curve.index, curve["mean"], color=COLOURS[init], label=LABELS[init])
            ax.fill_between(curve.index, curve["min"], curve["max"], color=COLOURS[init], alpha=0.2, linewidth=0)
        ax.set(xlabel="epochs", ylabel=f"validation {label}", xlim=(0, runs["epoch"].max()))
    if target:
        axes[0].axhline(target, color="0.6", linewidth=0.6, linestyle=":")
    axes[0].legend(loc="lower right")
    axes[1].set_ylim(bottom=0)
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
