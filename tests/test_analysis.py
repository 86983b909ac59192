"""Time to target, speed-up and its interval; and that what is committed is what the committed runs give."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subcloning import SubcloningError
from subcloning.analysis.cases import every_case
from subcloning.analysis.convergence import convergence_table
from subcloning.analysis.evidence import read_evidence
from subcloning.analysis.figures import report
from subcloning.analysis.speedup import best_settings, time_to_target
from subcloning.analysis.study import STUDIES, Study
from subcloning.analysis.tables import fill
from subcloning.analysis.tuning import tuning_table

ROOT = Path(__file__).parents[1]
DIGITS = STUDIES["digits"]
RUN = [name for name in STUDIES if (ROOT / "experiments" / name / "runs.csv").exists()]
TUNED = [name for name in STUDIES if (ROOT / "experiments" / name / "grid.csv").exists()]


@pytest.mark.parametrize(
    ("time", "quality", "target", "expected"),
    [
        ([0, 1, 2], [0.1, 0.5, 0.9], 0.7, 1.5),  # halfway between two evaluations
        ([0, 1, 2], [0.1, 0.5, 0.9], 0.5, 1.0),
        ([0, 1, 2, 3], [0.1, 0.8, 0.4, 0.9], 0.7, 6 / 7),  # the first crossing counts
        ([0, 1, 2], [0.6, 0.7, 0.9], 0.5, 0.0),  # there before training
        ([0, 1, 2], [0.1, 0.5, 0.9], 0.95, np.inf),
        ([0, 10, 20], [-3.0, -2.0, -1.0], -1.5, 15.0),  # a loss, negated
    ],
)
def test_time_to_target(time, quality, target, expected):
    assert time_to_target(time, quality, target) == pytest.approx(expected)


def curves(arms):
    """Runs whose accuracy rises linearly to 1 over so many epochs: {init: [epochs for each seed]}."""
    rows = [
        {
            "init": init,
            "lr": 1e-3,
            "weight_decay": 0.1,
            "seed": seed,
            "epoch": epoch,
            "step": 10 * epoch,
            "val_accuracy": min(1, epoch / n),
        }
        for init, lengths in arms.items()
        for seed, n in enumerate(lengths)
        for epoch in range(21)
    ]
    return pd.DataFrame(rows)


def test_convergence_table():
    table = convergence_table(curves({"subclone": [4, 5, 6], "random": [16, 20, 40]}), DIGITS).set_index("init")
    assert table.index.tolist() == ["random", "subclone"]
    # Geometric means of 14.4, 18 and 20 (of 36), and of 3.6, 4.5 and 5.4.
    assert table.loc["random", "epochs to 90%"] == "> 17.3 (2/3)"
    assert table.loc["subclone", "epochs to 90%"] == "4.4"
    assert table.loc["subclone", "speed-up to 90%"].startswith("> 3.9 [")
    assert table.loc["subclone", "speed-up to 90%"].endswith(", inf]")
    # Random ends at 1, 1 and 0.5; its own time to that is all of the training, and the other's has no interval.
    assert table.loc["random", "epochs to random's final"] == "20.0"
    assert table.loc["subclone", "speed-up to random's final"] == f"{20 / (5 / 6 * (4 * 5 * 6) ** (1 / 3)):.3g}"
    assert table.loc["subclone", "after 2"] == f"{(2 / 4 + 2 / 5 + 2 / 6) / 3:.1%}"
    assert table.loc["random", "speed-up to 90%"] == "1"


def test_it_can_say_that_there_is_no_speed_up():
    table = convergence_table(curves({"random": [8, 8, 8], "subclone": [16, 40, 40]}), DIGITS).set_index("init")
    assert table.loc["subclone", "epochs to 90%"] == "> 17.9 (1/3)"  # of 14.4, and twice the end
    assert table.loc["subclone", "speed-up to 90%"].startswith("< 0.402 [0, ")
    never = convergence_table(curves({"random": [8, 8, 8], "subclone": [40, 40, 40]}), DIGITS).set_index("init")
    assert never.loc["subclone", "epochs to 90%"] == "never"


def test_best_settings_take_the_fastest_then_the_best():
    grid = pd.concat([curves({"a": [n]}).assign(lr=lr) for lr, n in [(1e-3, 10), (2e-3, 5), (4e-3, 30)]])
    assert best_settings(grid, DIGITS).loc["a", "lr"] == 2e-3
    unreached = pd.concat([curves({"a": [n]}).assign(lr=lr) for lr, n in [(1e-3, 40), (2e-3, 30)]])
    assert best_settings(unreached, DIGITS).loc["a", "lr"] == 2e-3


def losses(arms):
    """Runs whose loss falls linearly from 8 to {init: [final loss for each seed]} over 100 thousand tokens."""
    rows = [
        {
            "init": init,
            "lr": 1e-3,
            "weight_decay": 0.1,
            "seed": seed,
            "tokens": t * 1000,
            "step": t,
            "val_loss": 8 - (8 - end) * t / 100,
        }
        for init, ends in arms.items()
        for seed, end in enumerate(ends)
        for t in range(0, 101, 10)
    ]
    return pd.DataFrame(rows)


TOKENS = Study(
    "tokens", "val_loss", math.log(1000), "final", shown=(0, 50_000, 200_000), name="gpt2_stdlib", label="mine"
)


def test_losses_count_downwards_and_are_shown_as_perplexity():
    table = convergence_table(losses({"random": [6.0] * 3, "subclone": [4.0] * 3}), TOKENS).set_index("init")
    assert table.loc["random", "after 50k"] == f"{math.exp(7):.1f}"
    assert "after 200k" not in table  # longer than these runs
    assert table.loc["random", "tokens to perplexity 1000"] == "55k"
    assert table.loc["subclone", "tokens to random's final"] == "50k"
    assert table.loc["subclone", "speed-up to perplexity 1000"].startswith("2 [2, 2")
    assert table.loc["subclone", "speed-up to random's final"] == "2"
    with pytest.raises(SubcloningError, match="no runs with init=random"):
        convergence_table(losses({"subclone": [4.0] * 3}), TOKENS)


def test_tuned_for_the_final_loss_and_a_diverged_run_spoils_its_setting():
    grid = pd.concat(
        [losses({"a": ends}).assign(lr=lr) for lr, ends in [(1e-3, [5, 5]), (2e-3, [4, 4]), (4e-3, [3, np.nan])]]
    )
    assert best_settings(grid, TOKENS).loc["a", "lr"] == 2e-3
    assert "**54.6**" in tuning_table(grid.assign(init="random"), TOKENS)["LR 0.002"].tolist()


@pytest.mark.parametrize("study", RUN)
def test_committed_results_are_those_of_the_committed_runs(study, tmp_path):
    committed = ROOT / "experiments" / study
    for file in (*committed.glob("*.csv"), *committed.glob("*.json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = report(tmp_path, read_evidence(tmp_path, STUDIES[study]))
    for name in ("table.csv", "table.md", *(["tuning.md"] if study in TUNED else [])):
        assert (tmp_path / name).read_text() == (committed / name).read_text(), name
    if f"<!-- {study} -->" in (ROOT / "README.md").read_text():
        assert text in (ROOT / "README.md").read_text()
    for name in ("convergence.png", "convergence.pdf"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_random_weights_are_those_of_the_study_where_only_the_parent_differs():
    study = curves({"random": [8, 9], "subclone": [4, 5], "uniform": [6, 7]})
    own = curves({"random": [7, 7], "subclone": [5, 5]})
    early = own[own["init"] == "subclone"].assign(case="early_parent")
    table = every_case(pd.concat([early, own.assign(case="random_parent")]), study, DIGITS)
    random = table[table["init"] == "random"].set_index("case")["val_accuracy"]
    assert (random["early_parent"].to_numpy() == random["half_width"].to_numpy()).all()
    assert (random["random_parent"].to_numpy() == own.loc[own["init"] == "random", "val_accuracy"].to_numpy()).all()
    assert set(table["init"]) == {"random", "subclone"}


def test_table_goes_into_the_readme(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    fill(readme, "x", "| new |\n")
    assert readme.read_text() == "a\n<!-- x -->\n| new |\n<!-- /x -->\nb\n"
    fill(readme, "y", "nothing")
    assert "nothing" not in readme.read_text()
