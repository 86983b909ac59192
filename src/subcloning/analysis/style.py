"""One look for all figures, at the width of paper columns; arms have their own colours (configs/init)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ..files import atomic
from .intervals import Interval

SERIES = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # of studies side by side
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embed fonts as text, not as outlines
    "savefig.dpi": 200,
}
WIDTHS = {1: 3.25, 2: 6.75}  # inches


def figure(columns: int = 1, panels: int = 1):
    """(figure, array of axes) with `panels` side by side over one or two paper columns."""
    mpl.rcParams.update(STYLE)
    fig = Figure(figsize=(WIDTHS[columns], 2.4), layout="constrained")
    return fig, fig.subplots(1, panels, squeeze=False)[0]


def error_bars(ax: Axes, intervals: Iterable[Interval], heights: Iterable[int], colour: str, factor: float = 1) -> None:
    """Each interval, times `factor`, at its height, and a line where there is no difference.

    A bound is a triangle that points to where the ratio may be. Those of diverged runs are left out.
    """
    known = [(at, i) for at, i in zip(heights, intervals, strict=True) if np.isfinite(i.value)]
    shown = [(at, i) for at, i in known if not i.bound and np.isfinite([i.low, i.high]).all()]
    at = [at for at, _ in shown]
    value, low, high = (factor * np.array([getattr(i, end) for _, i in shown]) for end in ("value", "low", "high"))
    low, high = np.minimum(low, high), np.maximum(low, high)  # a negative factor turns them round
    ax.errorbar(value, at, xerr=[value - low, high - value], fmt=".", color=colour, linewidth=1, markersize=5)
    for height, i in known:
        if i.bound:
            ax.plot(factor * i.value, height, marker=i.bound, color=colour, markersize=4)
    ax.axvline(next((i.neutral for _, i in known), 0.0), color="0.6", linewidth=0.6, linestyle=":")


def plain_log(*axes: XAxis | YAxis) -> None:
    """Logarithmic axes whose ticks are plain numbers, thousands as 1k, for ranges of less than a decade too."""
    prefixed = EngFormatter(sep="")
    for axis in axes:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        subs = (1, 2, 5) if axis.axis_name == "x" else (1, 2, 3, 5)  # labels side by side are wider
        axis.set_major_locator(LogLocator(subs=subs, numticks=9))
        axis.set_major_formatter(lambda x, _: prefixed(x) if x >= 1000 else f"{x:g}")
        axis.set_minor_locator(NullLocator())


def save(fig: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same figure."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        with atomic(path.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, format=suffix[1:], metadata=metadata)
