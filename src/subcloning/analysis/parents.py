"""What a trained parent looks like inside: the paper's Fig. 2, 3, 5, 6 and 8."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..method.scores import Scores
from .style import figure, plain_log

TOP = 50  # units, of those that the paper shows


def unit_table(scores: Scores) -> pd.DataFrame:
    """The scores as a table: axis, block, unit, score, one row each."""
    rows = [
        {"axis": axis, "block": block, "unit": unit, "score": value}
        for axis, block in scores.places
        for unit, value in enumerate(scores.of(axis, block).tolist())
    ]
    return pd.DataFrame(rows)


def correlations(units: pd.DataFrame) -> pd.DataFrame:
    """(blocks, blocks) rank correlations of the residual scores."""
    return _residual(units).corr("spearman")


def _residual(units: pd.DataFrame) -> pd.DataFrame:
    """(units, blocks)"""
    return units[units["axis"] == "residual"].pivot_table(index="unit", columns="block", values="score")


def blocks_figure(blocks: pd.DataFrame) -> Figure:
    """Fig. 2: the share of each block's branch in the stream, and the loss without it or with it twice."""
    fig, (left, right) = figure(columns=2, panels=2)
    left.bar(blocks["block"], blocks["share"], color="#0072B2")
    left.set(xlabel="block", ylabel=r"$|f(x)|\,/\,|x + f(x)|$")
    right.plot(blocks["block"], blocks["removed"], marker="o", markersize=3, color="#D55E00", label="removed")
    right.plot(blocks["block"], blocks["duplicated"], marker="s", markersize=3, color="#0072B2", label="duplicated")
    right.axhline(blocks["loss"][0], color="0.35", linewidth=0.6, linestyle=":", label="whole parent")
    right.set(xlabel="block", ylabel="validation loss, without training")
    plain_log(right.yaxis)
    right.legend()
    return fig


def magnitudes_figure(units: pd.DataFrame) -> Figure:
    """Fig. 3: the mean magnitude of each neuron of the residual stream in one block against another."""
    table = _residual(units)
    last = int(table.columns.max())
    pairs = [(0, last // 2), (last // 2, last), (0, last)]
    fig, axes = figure(columns=2, panels=3)
    for ax, (a, b) in zip(axes, pairs, strict=True):
        ax.plot(table[a], table[b], ".", markersize=3, color="#0072B2", alpha=0.6, markeredgewidth=0)
        plain_log(ax.xaxis, ax.yaxis)
        rho = table[a].corr(table[b], "spearman")
        ax.set(xlabel=f"mean magnitude, block {a}", ylabel=f"block {b}", title=f"rank correlation {rho:.2f}")
    return fig


def sorted_scores_figure(units: pd.DataFrame) -> Figure:
    """Fig. 5, 6 and 8: hidden units and heads of each block, and the stream's shared scores, in order; largest is 1."""
    fig, axes = figure(columns=2, panels=3)
    shades = np.linspace(0.85, 0.1, units["block"].max() + 1)
    for ax, axis in zip(axes, ("hidden", "head"), strict=False):
        for block, shade in enumerate(shades):
            own = units[(units["axis"] == axis) & (units["block"] == block)]
            scores = np.sort(own["score"])[::-1][:TOP]
            colour = (0, 0.447 * (1 - shade) + 0.2 * shade, 0.698, 1 - 0.8 * shade)
            ends = block in (0, units["block"].max())
            ax.plot(
                range(1, len(scores) + 1), scores / scores[0], color=colour, label=f"block {block}" if ends else None
            )
    axes[0].set(xlabel="hidden unit, in order", ylabel="score over the largest")
    axes[1].set(xlabel="head, in order", xticks=range(1, 1 + int(units.loc[units["axis"] == "head", "unit"].max() + 1)))
    axes[1].legend()
    shared = np.sort(_residual(units).sum(axis=1))[::-1][:TOP]
    axes[2].plot(range(1, len(shared) + 1), shared / shared[0], color="0.2")
    axes[2].set(xlabel="neuron of the stream, in order")
    for ax in axes:
        ax.set_ylim(0, 1.05)
    return fig
