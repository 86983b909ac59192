"""One look for all figures: a fixed, colour-blind-safe colour for each init mode, and the width of paper columns."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ..files import atomic

# Init mode -> what figures call it; tables list the modes in this order.
LABELS = {
    "random": "random",
    "subclone": "subclone",
    "subclone_head_unscaled": "head not scaled",
    "subclone_no_scaling": "no scaling",
    "subclone_no_reordering": "no reordering",
    "uniform": "uniform",
    "random_subset": "random subset",
    "inconsistent": "inconsistent",
    "least_important": "least important",
    "bigger parent": "bigger parent",
    "principal": "principal",
}
# Okabe and Ito's palette, with grey for the baseline.
COLOURS = dict(
    zip(
        LABELS,
        (
            "0.35",
            "#0072B2",
            "#000000",
            "#D55E00",
            "#009E73",
            "#CC79A7",
            "#E69F00",
            "#56B4E9",
            "#F0E442",
            "#8C510A",
            "#882255",
        ),
        strict=True,
    )
)
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


def figure(columns: int = 1, panels: int = 1):
    """(figure, array of axes) with `panels` side by side over one or two paper columns."""
    mpl.rcParams.update(STYLE)
    fig = Figure(figsize=(WIDTHS[columns], 2.4), layout="constrained")
    return fig, fig.subplots(1, panels, squeeze=False)[0]


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
