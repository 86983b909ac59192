"""Where parents are drawn too, each counts once: in intervals, verdicts, tables and tuning."""

import math

import numpy as np
import pandas as pd
import pytest
from records import write_record
from test_analysis import losses

from subcloning import SubcloningError
from subcloning.analysis.drawn import over_parents, parents_figure, parents_table
from subcloning.analysis.evidence import Evidence, read_evidence
from subcloning.analysis.intervals import Interval, between, difference, speed_up
from subcloning.analysis.speedup import best_settings
from subcloning.analysis.study import STUDIES, Study
from subcloning.analysis.style import error_bars, figure
from subcloning.analysis.verdicts import NOT, PARTLY, REPRODUCED, better_end, better_than, without
from subcloning.resolvers import winner

TOKENS = Study("tokens", "val_loss", math.log(1000), tuned_for="final", shown=(0,), name="gpt2_stdlib")
FAR = (1e-9, 1e9)
TRIALS = 1000


def known_by(values):
    """{parent: [value for each seed]} as a series; no two parents share a seed."""
    rows = {(parent, 10 * at + seed): x for at, parent in enumerate(values) for seed, x in enumerate(values[parent])}
    return pd.Series(rows)


def drawn(parents, seeds, share, random):
    """Differences of variance 1, a share of it between parents."""
    own = share**0.5 * random.normal(size=parents)
    return known_by({p: own[p] + (1 - share) ** 0.5 * random.normal(size=seeds) for p in range(parents)})


@pytest.mark.parametrize("parents", [3, 4, 5])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_intervals_over_parents_hold_what_they_say(parents, share):
    random, hits = np.random.default_rng(parents), []
    for _ in range(TRIALS):
        noise = drawn(parents, 2, share, random)
        gain = difference(noise + 0.3, noise * 0)
        ratio = speed_up(np.exp(noise) * 4, np.exp(noise * 0), FAR)
        hits += [gain.low <= 0.3 <= gain.high, ratio.low <= 4 <= ratio.high]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_seeds_of_one_parent_are_no_independent_runs():
    """Were its six runs independent, the interval would not reach zero."""
    gains = known_by({"a": [1.0, 1.1], "b": [0.1, 0.2], "c": [0.5, 0.6]})
    assert difference(gains, gains * 0).verdict == "open"
    assert difference(gains.droplevel(0), gains.droplevel(0) * 0).verdict == "better"
    assert difference(gains, gains * 0).value == pytest.approx(gains.mean())
    alone = known_by({"a": [1.0, 1.1]})
    assert difference(alone, alone * 0).verdict == speed_up(alone + 1, alone, FAR).verdict == "open"
    assert difference(gains.replace(0.1, np.nan), gains).verdict == "diverged"


def test_ratios_over_parents_are_paired_and_bounded():
    slow = known_by({"a": [8.0, 8.0], "b": [2.0, 2.0], "c": [32.0, 32.0]})
    found = speed_up(slow, slow / 4, FAR)
    assert (found.value, found.low, found.high) == pytest.approx((4, 4, 4))  # what parents differ in cancels
    never = speed_up(slow.replace(32.0, np.inf), slow / 4, (1, 32))
    assert (never.bound, never.high) == (">", np.inf)
    at_once = speed_up(slow / 4, slow.replace(32.0, np.inf), (0.1, 32))
    assert (at_once.bound, at_once.low) == ("<", 0)


def test_the_share_between_parents_is_found():
    random = np.random.default_rng(0)
    for share in (0.0, 0.5, 0.9):
        found = [between(drawn(8, 4, share, random)) for _ in range(200)]
        assert np.median(found) == pytest.approx(share, abs=0.08)
    assert between(known_by({"a": [1.0, 1.0], "b": [2.0, 2.0]})) == 1
    assert between(known_by({"a": [1.0, 2.0], "b": [1.0, 2.0]})) == 0
    for one in ({"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0]}, {"a": [1.0, np.nan], "b": [1.0, 2.0]}):
        assert math.isnan(between(known_by(one)))


def runs_of(arms):
    """{init: {parent: [final loss for each seed]}} as runs."""
    parts = []
    for at, parent in enumerate(next(iter(arms.values()))):
        own = losses({init: ends[parent] for init, ends in arms.items()})
        parts.append(own.assign(parent=parent, seed=own["seed"] + 10 * at))
    return pd.concat(parts, ignore_index=True)


ARMS = {
    "random": {"a": [6.0, 6.0], "b": [6.2, 6.0], "c": [6.1, 6.1]},
    "subclone": {"a": [4.0, 4.2], "b": [4.4, 4.4], "c": [4.2, 4.2]},
    "uniform": {"a": [4.5, 4.7], "b": [4.3, 4.3], "c": [4.6, 4.6]},
    "principal": {"a": [3.9, 4.1], "b": [4.1, 4.1], "c": [4.0, 4.0]},
}


def test_each_arm_is_compared_run_by_run_over_parents():
    table = over_parents(runs_of(ARMS), TOKENS, "subclone").set_index("init")
    assert table.index.tolist() == ["random", "uniform", "principal"]
    assert table.loc["principal", "better"].value == pytest.approx(0.2)
    assert table.loc["principal", "gains"].tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert table.loc["principal", "better_between"] == pytest.approx(1)
    assert table.loc["uniform", "better"].verdict == "open"  # better on one parent, worse on two
    text = parents_table(runs_of(ARMS), TOKENS, "subclone").set_index("init")
    assert text["parents x seeds"].tolist() == ["3 x 2"] * 3
    assert text.loc["`uniform`", ""] == "open"
    assert text.loc["`principal`", "between parents "] == "100%"
    assert text.loc["`principal`", "nats better"].startswith("+0.200 [-0.0")
    assert "tuning" in parents_table(runs_of(ARMS), TOKENS, "subclone", runs_of(ARMS))
    with pytest.raises(SubcloningError, match="no runs with init=random"):
        over_parents(runs_of({"subclone": ARMS["subclone"]}), TOKENS, "random")


def test_the_figure_has_a_dot_for_each_parent():
    left, right = parents_figure(runs_of(ARMS), TOKENS, "subclone").axes
    assert [label.get_text() for label in left.get_yticklabels()][-1] == "random"
    dots = [line.get_xdata() for line in right.lines if line.get_marker() == "o"]
    assert sorted(dots[0]) == pytest.approx([0.1, 0.2, 0.3])


def test_a_bound_is_a_triangle_that_points_to_where_the_ratio_may_be():
    left, _ = figure(columns=2, panels=2)[1]
    error_bars(left, [Interval(2.0, 1.5, 3.0), Interval(4.0, 3.0, np.inf, ">"), Interval(np.nan, 0, 1)], [0, 1, 2], "k")
    bounds = {
        line.get_marker(): (*line.get_xdata(), *line.get_ydata()) for line in left.lines if len(line.get_xdata()) == 1
    }
    assert bounds == {".": (2.0, 0.0), ">": (4.0, 1.0)}


def test_verdicts_are_over_parents_where_there_are_several():
    one = losses({init: ends["a"] for init, ends in ARMS.items()} | {"subclone_no_scaling": [9.0, 9.0]})
    e = Evidence(TOKENS, one, controls=one, parents=runs_of(ARMS))
    assert better_than("uniform")(e).verdict == NOT
    assert better_than("uniform")(e).seeds == "3 x 2"
    assert better_than("uniform")(Evidence(TOKENS, one, controls=one)).verdict in (REPRODUCED, PARTLY)
    assert better_end(e).ours.startswith("68.9 against 431.2")
    assert without("subclone_no_scaling")(e).seeds == "2"  # an arm that was run on one parent only


def test_rates_are_tuned_over_parents(monkeypatch, tmp_path):
    """1e-3 is the best for one parent, and by a little; 2e-3 for the other, by much."""
    ends = {1e-3: {"parent100": [4.0], "parent101": [5.0]}, 2e-3: {"parent100": [4.1], "parent101": [4.2]}}
    grid = pd.concat(
        [runs_of({"subclone": of, "random": of}).assign(lr=lr) for lr, of in ends.items()], ignore_index=True
    )
    assert best_settings(grid, TOKENS).loc["subclone", "lr"] == 2e-3
    (tmp_path / "gpt2_stdlib").mkdir()
    for stem in ("parents", "parents_grid"):
        write_record(tmp_path / "gpt2_stdlib" / f"{stem}.csv", grid.rename(columns={"parent": "case"}))
    monkeypatch.setenv("SUBCLONING_EXPERIMENTS", str(tmp_path))
    assert winner("gpt2_stdlib/parents_grid", "subclone", "lr") == 2e-3
    write_record(tmp_path / "gpt2_stdlib" / "runs.csv", losses({"random": [6.0], "subclone": [5.0]}))
    found = read_evidence(tmp_path / "gpt2_stdlib", STUDIES["gpt2_stdlib"])
    assert set(found.parents["parent"]) == {"parent100", "parent101"}
