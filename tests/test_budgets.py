"""The speed-up over random's budget: interpolated, bounded, with a trend, from runs of several lengths."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from records import write_record
from test_analysis import losses

from subcloning import SubcloningError
from subcloning.analysis.budgets import (
    budgets_figure,
    budgets_table,
    by_budget,
    payback_table,
    trend,
    trends_table,
)
from subcloning.analysis.evidence import Evidence, read_evidence
from subcloning.analysis.figures import budgets
from subcloning.analysis.study import Study
from subcloning.files import ROOT

TOKENS = Study("tokens", "val_loss", 6.0, tuned_for="final", shown=(0,), name="gpt2_stdlib")


def runs_of(ends, lr=1e-3):
    """{budget in thousand tokens: {init: [final loss of each seed]}}: losses fall in a line to the end."""
    parts = []
    for budget, arms in ends.items():
        own = losses(arms).assign(case=f"budget_{budget}", lr=lr)
        parts.append(own.assign(tokens=own["tokens"] * budget // 100))
    return pd.concat(parts, ignore_index=True)


# Random's end at 400k is where the child ends between 100k and 200k, at 1/4 of the way: 100k * 2 ** 0.25.
ENDS = {
    100: {"random": [6.0, 6.0], "subclone": [4.0, 4.0]},
    200: {"random": [5.0, 5.0], "subclone": [3.6, 3.6]},
    400: {"random": [3.9, 3.9], "subclone": [3.4, 3.4]},
}


def test_the_arms_own_schedule_is_found_between_budgets():
    table = by_budget(runs_of(ENDS), TOKENS).set_index("budget")
    assert table.index.tolist() == [100_000, 200_000, 400_000]
    assert table.loc[400_000, "own"].value == pytest.approx(4 / 2**0.25)
    assert not table.loc[400_000, "own"].bound
    # With its smallest budget the child is already ahead of random's end.
    assert [table.loc[b, "own"].bound for b in (100_000, 200_000)] == [">", ">"]
    assert table.loc[200_000, "own"].value == pytest.approx(2)
    assert table.loc[200_000, "own"].high == np.inf
    # Of the same schedule: from 8 to 3.4 over 400k it is at 3.9 after 41/46 of it.
    assert table.loc[400_000, "same"].value == pytest.approx(46 / 41)
    assert table.loc[400_000, "early"].value == pytest.approx(4.6 / 4.1)
    assert table.loc[100_000, "ends"] == f"{math.exp(4):.1f} against {math.exp(6):.1f}"


def test_a_child_that_never_gets_there_is_an_upper_bound():
    ends = {100: {"random": [5.0, 5.0], "uniform": [6.0, 6.0]}, 200: {"random": [4.0, 4.0], "uniform": [5.5, 5.5]}}
    table = by_budget(runs_of(ends), TOKENS).set_index("budget")
    assert (table.loc[100_000, "own"].bound, table.loc[100_000, "own"].low) == ("<", 0)
    assert table.loc[100_000, "own"].value == pytest.approx(0.5)
    assert table.loc[100_000, "same"].bound == "<"


def test_intervals_are_over_seeds():
    noisy = {**ENDS, 400: {"random": [3.9, 3.7], "subclone": [3.4, 3.4]}}
    own = by_budget(runs_of(noisy), TOKENS).set_index("budget").loc[400_000, "own"]
    each = [4 / 2**0.25, 4 / 2**0.75]
    assert own.value == pytest.approx(math.prod(each) ** 0.5)
    assert own.low < min(each) < max(each) < own.high


def test_the_trend_over_budgets():
    """Where the ratio is 8, 4, 2 for budgets that double, it halves with each doubling."""
    budgets = {100: 8, 200: 4, 400: 2}
    ends = {
        budget: {"random": [4.0, 4.0], "subclone": [8 - 4 * ratio] * 2} for budget, ratio in budgets.items()
    }  # at random's end after 1/ratio of the way
    table = by_budget(runs_of(ends), TOKENS)
    found = trend(table, "subclone", "same")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert trend(table, "subclone", "own") is None  # bounds alone
    assert trends_table(runs_of(ends), TOKENS)["to random's end, same schedule"].tolist() == ["0.5 [0.5, 0.5]"]


def test_what_diverged_has_no_speed_up():
    for arm in ("random", "subclone"):
        runs = runs_of(ENDS)
        last = (runs["tokens"] == runs["tokens"].max()) & (runs["init"] == arm)
        table = by_budget(runs.assign(val_loss=runs["val_loss"].mask(last)), TOKENS).set_index("budget")
        assert math.isnan(table.loc[400_000, "own"].value)
    assert table.loc[400_000, "same"].bound == "<"  # it is taken for a run that never gets there


def test_the_studys_own_budget_is_one_more(tmp_path):
    arms = {"random": [5.0, 5.0], "subclone": [4.0, 4.0], "uniform": [4.5, 4.5]}
    write_record(tmp_path / "runs.csv", losses(arms))
    shorter = runs_of({50: {init: arms[init] for init in ("random", "subclone")}})
    write_record(tmp_path / "budgets.csv", shorter)
    found = read_evidence(tmp_path, TOKENS).budgets
    assert found.groupby("case")["tokens"].max().to_dict() == {"budget_50": 50_000, "own": 100_000}
    assert set(found["init"]) == {"random", "subclone"}
    write_record(tmp_path / "budgets.csv", pd.concat([shorter, runs_of({100: arms})]))
    assert "own" not in set(read_evidence(tmp_path, TOKENS).budgets["case"])  # that length is there


def test_runs_at_equal_time_without_a_teacher_are_budgets_where_none_is_as_long(tmp_path):
    arms = {"random": [5.0, 5.0], "subclone": [4.0, 4.0]}
    write_record(tmp_path / "runs.csv", losses(arms))
    by_case = {"quarter": 50, "quarter_taught": 50, "whole": 200}
    write_record(tmp_path / "equal_time.csv", pd.concat(runs_of({n: arms}).assign(case=c) for c, n in by_case.items()))
    assert set(read_evidence(tmp_path, TOKENS).budgets["case"]) == {"quarter", "whole", "own"}
    write_record(tmp_path / "budgets.csv", runs_of({50: arms}))
    assert set(read_evidence(tmp_path, TOKENS).budgets["case"]) == {"budget_50", "whole", "own"}


def test_a_study_whose_children_are_taught_is_no_budget(tmp_path):
    arms = {"random": [5.0, 5.0], "subclone": [4.0, 4.0]}
    write_record(tmp_path / "runs.csv", losses(arms))
    write_record(tmp_path / "equal_time.csv", runs_of({50: arms}).assign(case="fifth"))
    assert set(read_evidence(tmp_path, replace(TOKENS, name="minilm")).budgets["case"]) == {"fifth"}
    assert set(read_evidence(tmp_path, replace(TOKENS, name="smollm2")).budgets["case"]) == {"fifth", "whole"}


def test_a_study_without_recipes_lends_its_runs(tmp_path):
    arms = {"random": [5.0, 5.0], "subclone": [4.0, 4.0]}
    write_record(tmp_path / "runs.csv", losses(arms))
    write_record(tmp_path / "budgets.csv", runs_of({50: arms}))
    assert not (ROOT / "configs" / "experiment" / "equal_time_vit_cifar10_cpu.yaml").exists()
    found = read_evidence(tmp_path, replace(TOKENS, name="vit_cifar10_cpu")).budgets
    assert set(found["case"]) == {"budget_50", "own"}


def test_when_a_parent_has_paid_for_itself():
    """A child saves budget - budget / speed-up - its own cost; the parent costs 900k."""
    cost = pd.DataFrame({"what": ["parent", "subclone"], "time": [900_000, 20_000]})
    table = payback_table(runs_of(ENDS), TOKENS, cost)
    at_once, second, last = table.iloc[:, -1]
    assert at_once == "-"  # all that is known is that it needs no more than all of the time
    assert second == f"< {math.ceil(900 / (200 - 100 - 20))} [{math.ceil(900 / (200 - 20))}, 12]"
    saved = 400 - 100 * 2**0.25 - 20
    assert table.columns[-1] == "children that pay for the parent (900k)"
    assert last.startswith(f"{math.ceil(900 / saved)} [")
    assert table["tokens saved by a child"].tolist()[-1] == f"{saved:.0f}k"
    runs = runs_of(ENDS)
    lost = (runs["tokens"] == runs["tokens"].max()) & (runs["init"] == "random")
    unknown = payback_table(runs.assign(val_loss=runs["val_loss"].mask(lost)), TOKENS, cost)
    assert unknown.iloc[-1, -2:].tolist() == ["-", "-"]
    worse = {budget: {"random": [4.0, 4.0], "subclone": [5.0, 5.0]} for budget in (100, 200)}
    assert payback_table(runs_of(worse), TOKENS, cost).iloc[:, -1].tolist() == ["never", "never"]


def test_costs_are_in_the_childs_own_time(monkeypatch):
    """By a clock where the parent's steps take twice the child's, and filling a child three or four times as long."""
    spec = importlib.util.spec_from_file_location("cost", ROOT / "experiments" / "budgets" / "cost.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    clock = iter([1.0, 2.0] * script.ROUNDS + [3.0] * 3 + [4.0] * 3)

    def seconds(work):
        work()
        return next(clock)

    monkeypatch.setattr(script, "seconds", seconds)
    cost = script.costs("digits", "parent.weights=null").set_index("what")
    assert next(clock, None) is None
    parent = yaml.safe_load((ROOT / "configs" / "experiment" / "digits_parent.yaml").read_text())["optim"]["epochs"]
    assert cost.loc["parent", "time"] == pytest.approx(2 * parent)
    per_second = script.STEPS * 64 / (1347 // 64 * 64)  # epochs: so many batches of 64 images
    assert cost["time"][["subclone", "principal"]].tolist() == pytest.approx([3 * per_second, 4 * per_second], rel=1e-3)
    assert cost["seconds"][["subclone", "principal"]].tolist() == [3, 4]
    with pytest.raises(SubcloningError, match="minilm has no pair of which budgets are compared"):
        script.costs("minilm")


def test_tables_and_figure():
    grid = pd.concat(
        [runs_of(ENDS), runs_of({b: {i: [e + 1 for e in es] for i, es in a.items()} for b, a in ENDS.items()}, lr=2e-3)]
    )
    text = budgets_table(runs_of(ENDS), TOKENS, grid)
    assert text["tuning"].tolist() == ["2 x 2, lowest LR"] * 3
    assert text["its own schedule"].tolist()[-1].startswith("3.36 [3.36")
    left, right = budgets_figure(runs_of(ENDS), TOKENS).axes
    assert [line.get_label() for line in left.lines] == ["random", "subclone"]
    solid = next(line for line in right.lines if line.get_linestyle() == "-")
    assert solid.get_xdata().tolist() == [400_000]
    bounds = next(line for line in right.lines if line.get_marker() == "^")
    assert bounds.get_xdata().tolist() == [100_000, 200_000]


def test_the_figure_and_the_tables_go_to_their_folder(tmp_path):
    folder = tmp_path / "budgets"
    folder.mkdir()
    places = [TOKENS.name, f"{TOKENS.name}_trend"]
    (folder / "README.md").write_text("".join(f"<!-- {place} -->\n<!-- /{place} -->\n" for place in places))
    budgets(tmp_path, [Evidence(TOKENS, losses({}), budgets=runs_of(ENDS), budgets_grid=runs_of(ENDS))])
    assert (folder / f"{TOKENS.name}.png").exists()
    text = (folder / "README.md").read_text()
    assert text.count("`subclone`") == 3 + 1  # a row a budget, one for the trend
