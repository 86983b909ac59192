"""Runs as `subcloning.collect` writes them."""

from pathlib import Path

import pandas as pd


def read_runs(file: Path) -> pd.DataFrame:
    """The curves of all runs in `file`, one row for each validation.

    Columns: case (where there are several), init, lr, weight_decay, seed; epoch or tokens, and step; metrics.
    """
    return pd.read_csv(file)
