"""Markdown tables, and where they go."""

import re
from pathlib import Path

import pandas as pd

from ..files import atomic
from .text import chance_text
from .tuning import effort_text


def markdown(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def noted(table: pd.DataFrame) -> str:
    """`markdown`, and what is to be known of its columns: how arms were tuned, and how many were judged."""
    notes = [effort_text(table["tuning"])] if "tuning" in table else []
    notes += [chance_text((table[""] != "").sum())] if "" in table else []
    return f"{markdown(table)}\n{' '.join(notes)}\n" if notes else markdown(table)


def write(file: Path, text: str) -> None:
    with atomic(file) as temporary:
        temporary.write_text(text)


def fill(file: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`, if the file has such a place."""
    if not file.exists():
        return
    old = file.read_text()
    new = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + text + m[2], old, flags=re.DOTALL)
    if new != old:
        write(file, new)
