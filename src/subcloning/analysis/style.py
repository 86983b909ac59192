"""One look for all figures: a fixed, colour-blind-safe colour for each init mode, and the width of paper columns."""

from collections.abc import Collection, Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ..errors import SubcloningError
from ..files import atomic
from .intervals import Interval

# Init mode -> what figures call it, and its colour: Okabe and Ito's palette, with grey for the baseline. Tables list
# the modes in this order.
MODES = {
    "random": ("random", "0.35"),
    "subclone": ("subclone", "#0072B2"),
    "subclone_head_unscaled": ("head not scaled", "#000000"),
    "subclone_no_scaling": ("no scaling", "#D55E00"),
    "subclone_no_reordering": ("no reordering", "#009E73"),
    "uniform": ("uniform", "#CC79A7"),
    "random_subset": ("random subset", "#E69F00"),
    "inconsistent": ("inconsistent", "#56B4E9"),
    "least_important": ("least important", "#F0E442"),
    "bigger parent": ("bigger parent", "#8C510A"),
    "principal": ("principal", "#882255"),
}
LABELS = {init: label for init, (label, _) in MODES.items()}
COLOURS = {init: colour for init, (_, colour) in MODES.items()}
SERIES = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # of studies side by side
STYLE = {
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


def known(found: Iterable[str], names: Collection[str], what: str) -> list[str]:
    """Those of `names` that are in `found`, in their order. Raises SubcloningError if `found` has others."""
    found = set(found)
    if unknown := sorted(map(str, found - set(names))):
        raise SubcloningError(f"runs of {unknown}, which {what} does not have: add them there, or leave the runs out")
    return [name for name in names if name in found]


def figure(columns: int = 1, panels: int = 1):
    """(figure, array of axes) with `panels` side by side over one or two paper columns."""
    mpl.rcParams.update(STYLE)
    fig = Figure(figsize=(WIDTHS[columns], 2.4), layout="constrained")
    return fig, fig.subplots(1, panels, squeeze=False)[0]


def error_bars(ax: Axes, y: Iterable[int], intervals: Iterable[Interval], scale: float, colour: str) -> None:
    """Each interval, times `scale`, at its height; those without two ends are left out."""
    shown = [(at, i) for at, i in zip(y, intervals, strict=True) if np.isfinite([i.value, i.low, i.high]).all()]
    at = [at for at, _ in shown]
    value, low, high = (scale * np.array([getattr(i, end) for _, i in shown]) for end in ("value", "low", "high"))
    low, high = np.minimum(low, high), np.maximum(low, high)  # a negative scale turns them round
    ax.errorbar(value, at, xerr=[value - low, high - value], fmt=".", color=colour, linewidth=1, markersize=5)


def plain_log(*axes: Axis) -> None:
    """Logarithmic axes whose ticks are plain numbers, for ranges of less than a decade too."""
    for axis in axes:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=9))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def save(fig: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same figure."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        with atomic(path.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, format=suffix[1:], metadata=metadata)
