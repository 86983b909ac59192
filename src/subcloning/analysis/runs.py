"""Runs as `subcloning.collect` writes them."""

from pathlib import Path

import pandas as pd

from ..files import atomic


def read_runs(file: Path) -> pd.DataFrame:
    """The curves of all runs in `file`, one row for each validation.

    Columns: case (where there are several), init, lr, weight_decay, seed; epoch or tokens, and step; metrics.
    """
    return pd.read_csv(file)


def read_units(file: Path) -> pd.DataFrame:
    """The scores in `file` of each unit of a parent: axis, block, unit, score."""
    return pd.read_csv(file)


def write_units(file: Path, units: pd.DataFrame) -> None:
    """Write what `read_units` gives."""
    with atomic(file) as temporary:
        units.to_csv(temporary, index=False, float_format="%.5g")


def write_blocks(file: Path, blocks: pd.DataFrame) -> None:
    """Write what was measured of a parent's blocks."""
    with atomic(file) as temporary:
        blocks.to_csv(temporary, index=False, float_format="%.5g")
