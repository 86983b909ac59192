"""Runs that cannot be compared are refused, runs that diverged count, and nothing is left out of a table in silence."""

import numpy as np
import pandas as pd
import pytest
from test_analysis import DIGITS, TOKENS, curves, losses

from subcloning import SubcloningError
from subcloning.analysis.cases import cases_figure, cases_table
from subcloning.analysis.comparisons import comparisons, controls_table
from subcloning.analysis.convergence import convergence_figure, convergence_table, speed_up_figure
from subcloning.analysis.evidence import Evidence
from subcloning.analysis.speedup import best_settings
from subcloning.analysis.tuning import effort, effort_text, tuning_figure, tuning_table
from subcloning.analysis.verdicts import NOT, better_end, better_in_all_cases, better_than, without

ARMS = {"random": [6.0, 6.1, 6.2], "subclone": [4.0, 4.1, 4.2]}


def verdict(runs, study):
    return without("random")(Evidence(study, runs))


def cases(runs, study):
    return cases_table(runs.assign(case="half_width"), study)


COMPARED = pytest.mark.parametrize(
    "compare", [convergence_table, convergence_figure, comparisons, cases, verdict], ids=lambda f: f.__name__
)


@COMPARED
def test_two_settings_of_one_arm_are_refused(compare):
    runs = losses(ARMS).assign(val_perplexity=1.0)
    compare(runs, TOKENS)
    again = losses({"subclone": [3.0, 5.0, 4.0]}).assign(lr=2e-3)  # tuned anew: seeds would be paired crosswise
    with pytest.raises(SubcloningError, match=r"one lr, found \[0.001, 0.002\] of init=subclone"):
        compare(pd.concat([runs, again]), TOKENS)


@COMPARED
def test_a_short_run_is_refused(compare):
    runs = losses(ARMS)
    short = runs[(runs["init"] != "subclone") | (runs["seed"] != 1) | (runs["tokens"] <= 60_000)]
    with pytest.raises(SubcloningError, match=r"init=subclone .* seed=1 ends at tokens 60000, others at 100000"):
        compare(short, TOKENS)


def test_a_lost_or_doubled_validation_is_refused():
    runs = losses(ARMS)
    one = (runs["init"] == "random") & (runs["seed"] == 2) & (runs["tokens"] == 40_000)
    with pytest.raises(SubcloningError, match="seed=2 has 10 validations, of 11 different times in its arm"):
        convergence_table(runs[~one], TOKENS)
    with pytest.raises(SubcloningError, match="seed=2 has 12 validations"):
        convergence_table(pd.concat([runs, runs[one]]), TOKENS)
    with pytest.raises(SubcloningError, match="no val_loss at tokens 40000, but one later: run it again"):
        convergence_table(runs.assign(val_loss=runs["val_loss"].mask(one)), TOKENS)


def diverged(arms, init, seed, value):
    """As `losses`, but one run is lost from the middle on."""
    runs = losses(arms)
    lost = (runs["init"] == init) & (runs["seed"] == seed) & (runs["tokens"] >= 50_000)
    loss = runs["val_loss"].mask(lost, value)
    return runs.assign(val_loss=loss, val_perplexity=np.exp(loss))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_run_counts_against_its_arm(value):
    runs = diverged(ARMS | {"uniform": [2.0, 2.1, 2.2]}, "subclone", 1, value)
    table = convergence_table(runs, TOKENS).set_index("init")
    assert table.loc["subclone", ["after 50k", "after 100k"]].tolist() == ["diverged (1/3)"] * 2
    assert table.loc["subclone", "tokens to perplexity 1000"].endswith("(2/3)")
    assert table.loc["subclone", "speed-up to perplexity 1000"].startswith("< ")
    e = Evidence(TOKENS, runs, controls=runs)
    assert better_end(e).verdict == NOT
    assert better_end(e).ours == "diverged (1/3) against 445.9"
    assert better_than("random")(e).verdict == NOT
    assert better_than("subclone", "uniform")(e).verdict == NOT
    table = controls_table(runs.replace({"init": {"subclone": "uniform", "uniform": "subclone"}}), TOKENS)
    uniform = table.set_index("init").loc["`uniform`"]
    assert uniform[["at the end", "nats better", ""]].tolist() == ["diverged (1/3)", "-", "diverged"]
    line = convergence_figure(runs, TOKENS).axes[0].lines[1]
    assert np.isfinite(line.get_ydata()).sum() == 5  # the mean ends where a run is lost


def test_a_run_that_diverges_after_the_target_never_got_there():
    grid = pd.concat([curves({"a": [4, 4]}).assign(lr=1e-3), curves({"a": [8, 8]}).assign(lr=2e-3)])
    grid.loc[(grid["lr"] == 1e-3) & (grid["seed"] == 0) & (grid["epoch"] >= 10), "val_accuracy"] = np.nan
    assert best_settings(grid, DIGITS).loc["a", "lr"] == 2e-3


def test_cases_do_not_call_a_case_better_whose_run_diverged():
    arms = {"subclone": [5.0, 5.1, 5.2], "principal": [4.0, 4.1, 4.2]}
    parts = [losses(arms).assign(case=case) for case in ("quarter_width", "half_width", "quarter_budget")]
    lost = diverged(arms, "subclone", 0, np.nan).assign(case="quarter_budget")
    assert better_in_all_cases(Evidence(TOKENS, None, cases=pd.concat(parts))).verdict != NOT
    found = better_in_all_cases(Evidence(TOKENS, None, cases=pd.concat([*parts[:2], lost])))
    assert found.verdict == NOT
    cases_figure(pd.concat([*parts[:2], lost]), TOKENS)


def test_a_setting_on_fewer_seeds_does_not_win():
    four = [curves({"a": [10, 11, 12, 13]}).assign(lr=lr) for lr in (1e-3, 2e-3)]
    lucky = curves({"a": [5]}).assign(lr=8e-3)
    with pytest.raises(SubcloningError, match=r"init=a was tried on 4 seeds, but with lr=0.008 .* on 1: finish"):
        best_settings(pd.concat([*four, lucky]), DIGITS)
    assert best_settings(pd.concat([*four, lucky.assign(init="b")]), DIGITS)["lr"].tolist() == [1e-3, 8e-3]


def test_a_winner_is_one_row_of_the_grid():
    """With a final value that is NaN, the best time's own, and not that of the next setting."""
    fast, slow = (curves({"a": [n]}).assign(lr=lr) for n, lr in ((4, 1e-3), (30, 2e-3)))
    slow["val_accuracy"] = slow["val_accuracy"].where(slow["epoch"] < 20)
    both = best_settings(pd.concat([slow]), DIGITS).loc["a"]
    assert (both["lr"], both["time"]) == (2e-3, np.inf)
    assert np.isnan(both["final"])
    assert best_settings(pd.concat([slow, fast]), DIGITS).loc["a"].tolist() == [1e-3, 0.1, pytest.approx(3.6), 1]


def test_how_an_arm_was_tuned_is_said():
    tried = {1e-3: [0, 1], 2e-3: [0, 1], 4e-3: [0, 1], 8e-3: [0]}
    grid = pd.concat([curves({"subclone": [9] * len(seeds)}).assign(lr=lr) for lr, seeds in tried.items()])
    assert effort(grid, "subclone", 2e-3, 0.1) == "3 x 2, 1 more on fewer seeds"
    assert effort(grid, "subclone", 1e-3, 0.1) == "3 x 2, 1 more on fewer seeds, lowest LR"
    assert effort(grid[grid["seed"] == 0], "subclone", 8e-3, 0.1) == "4 x 1, highest LR"
    assert effort(grid, "subclone", 3e-3, 0.1) == effort(grid, "random", 1e-3, 0.1) == "not tried"
    moved = grid[grid["lr"] < 8e-3].assign(seed=lambda g: g["seed"] + 5 * (g["lr"] == 4e-3))
    assert effort(moved, "subclone", 2e-3, 0.1) == "3 x 2, on different seeds"
    assert "1 of 2 arms" in effort_text(["4 x 1, highest LR", "15 x 4"])
    table = convergence_table(curves({"random": [9] * 3}).assign(lr=2e-3), DIGITS, grid.assign(init="random"))
    assert table["tuning"].tolist() == ["3 x 2, 1 more on fewer seeds"]


def test_what_is_not_known_is_refused_and_not_left_out():
    runs = losses(ARMS | {"mine": [4.0] * 3}).assign(val_perplexity=1.0)
    for make in (convergence_table, convergence_figure):
        with pytest.raises(SubcloningError, match=r"\['mine'\], which configs/init does not have"):
            make(runs, TOKENS)
    for make in (tuning_table, tuning_figure, comparisons):
        with pytest.raises(SubcloningError, match=r"\['mine'\], which configs/init"):
            make(runs, TOKENS)
    with pytest.raises(SubcloningError, match=r"\['mine'\], which configs/init"):
        cases_table(runs.assign(case="half_width"), TOKENS)
    with pytest.raises(SubcloningError, match=r"\['tenth_width'\], which configs/experiment/cases_gpt2_stdlib.yaml"):
        cases_table(losses(ARMS).assign(case="tenth_width"), TOKENS)
    with pytest.raises(SubcloningError, match="no runs with init=subclone"):
        comparisons(losses({"random": [4.0]}), TOKENS)
    with pytest.raises(SubcloningError, match="7 studies, but 6 colours"):
        speed_up_figure({str(i): (losses(ARMS), TOKENS) for i in range(7)})
    grid = pd.concat([losses(ARMS).assign(weight_decay=decay) for decay in (0, 0.1, 0.2, 0.3, 0.4)])
    with pytest.raises(SubcloningError, match=r"0\.3, 0\.4: there are 4 styles"):
        tuning_figure(grid, TOKENS)


def test_shown_between_two_validations_is_the_nearest_one():
    runs = curves({"random": [16, 20], "subclone": [4, 5]})
    table = convergence_table(runs[runs["epoch"] % 4 == 0], DIGITS)  # DIGITS shows 0, 1, 2 and 5
    assert [name for name in table if name.startswith("after")] == ["after 0", "after 4", "after 20"]
    assert table.loc[0, "after 4"] == f"{(4 / 16 + 4 / 20) / 2:.1%}"
