"""Which learning rate is best in which case: the table and figure beside Fig. 11."""

from dataclasses import replace

import pandas as pd
import pytest
from test_analysis import losses
from test_budgets import ENDS, TOKENS, runs_of

from subcloning import SubcloningError
from subcloning.analysis.evidence import Evidence
from subcloning.analysis.figures import tuning
from subcloning.analysis.rates import named, rates_figure, rates_table

WORSE = {budget: {init: [end + 1 for end in ends] for init, ends in arms.items()} for budget, arms in ENDS.items()}
GRID = pd.concat([runs_of(ENDS), runs_of(WORSE, lr=2e-3)])
SAME = pd.concat(
    [
        losses({"subclone": [end, end]}).assign(case=case, lr=lr)
        for case, lr, end in [
            ("decayed", 1e-3, 4.0),
            ("decayed", 2e-3, 3.0),
            ("constant", 1e-3, 3.5),
            ("constant", 2e-3, 4.0),
        ]
    ]
)


def test_cases_are_called_by_their_length_where_it_differs():
    assert named(GRID, TOKENS) == {"budget_100": "100k", "budget_200": "200k", "budget_400": "400k"}
    assert named(SAME, TOKENS) == {"decayed": "decayed", "constant": "constant"}


def test_the_table():
    table = rates_table(GRID, TOKENS)
    assert table["best LR"].tolist() == ["0.001"] * 6
    assert table["tried"].tolist() == ["0.001, 0.002"] * 6
    assert rates_table(SAME, TOKENS).set_index("case")["best LR"].to_dict() == {"decayed": "0.002", "constant": "0.001"}


def test_it_is_the_end_that_counts():
    """Also where the study is tuned for the early target: that is reached at once at the rate that ends worse."""
    early = SAME["lr"].eq(1e-3) & SAME["case"].eq("decayed") & SAME["tokens"].gt(0) & SAME["tokens"].lt(100_000)
    grid = SAME.assign(val_loss=SAME["val_loss"].mask(early, 4.0))
    table = rates_table(grid, replace(TOKENS, tuned_for="time"))
    assert table.set_index("case")["best LR"]["decayed"] == "0.002"


def test_a_star_is_at_each_best_rate():
    left, right = rates_figure({"length": GRID, "parent": SAME}, TOKENS).axes
    stars = [line for line in right.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == pytest.approx([2e-3, 1e-3])
    assert len([line for line in left.lines if line.get_marker() == "."]) == 6


def test_more_cases_than_line_styles_are_refused():
    many = pd.concat([SAME.assign(case=f"case_{i}") for i in range(5)])
    with pytest.raises(SubcloningError, match=r"5 kinds of lines, .*there are 4 styles"):
        rates_figure({"many": many}, TOKENS)


def test_they_stand_beside_figure_11(tmp_path):
    folder = tmp_path / "fig11_tuning"
    folder.mkdir()
    (folder / "README.md").write_text(f"<!-- {TOKENS.name}_why -->\n<!-- /{TOKENS.name}_why -->\n")
    tuning(tmp_path, [Evidence(TOKENS, losses({}), budgets_grid=GRID, rates=SAME)])
    assert (folder / f"{TOKENS.name}_why.png").exists()
    assert (folder / "README.md").read_text().count("`subclone`") == 3 + 2


def test_a_length_at_which_no_rates_were_tried_is_left_out(tmp_path):
    (tmp_path / "fig11_tuning").mkdir()
    grid = pd.concat([SAME[SAME["case"] == "decayed"].assign(case=case) for case in ("fifth", "whole")])
    tuning(tmp_path, [Evidence(TOKENS, losses({}), budgets_grid=grid)])
    assert not [*(tmp_path / "fig11_tuning").glob("*_why.*")]
