"""Recipes at equal time: each against subclone of its budget, teachers or not."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from records import write_record
from test_analysis import losses

from subcloning import SubcloningError
from subcloning.analysis.equal_time import places, recipes, recipes_figure, recipes_table
from subcloning.analysis.evidence import Evidence, read_evidence
from subcloning.analysis.figures import equal_time
from subcloning.analysis.study import STUDIES, Study
from subcloning.files import ROOT

TOKENS = Study("tokens", "val_loss", 6.0, tuned_for="final", shown=(0,), name="gpt2_stdlib")
# 100 thousand tokens, and 200; with a teacher half as many.
ENDS = {
    "quarter": {"random": [7.0, 7.0], "subclone": [6.0, 6.0], "principal": [4.0, 4.0]},
    "quarter_taught": {"principal": [2.0, 4.0]},
    "whole": {"subclone": [3.0, 3.0]},
}


def runs_of(ends, lr=1e-3):
    """Losses fall in a line from 8 to {case: {init: [final loss of each seed]}}."""
    parts = []
    for case, arms in ends.items():
        own = losses(arms).assign(case=case, lr=lr)
        parts.append(own.assign(tokens=own["tokens"] // (2 if "taught" in case else 1) * (2 if case == "whole" else 1)))
    return pd.concat(parts, ignore_index=True)


def test_each_is_held_against_subclone_of_its_budget():
    table = recipes(runs_of(ENDS), TOKENS).set_index(["budget", "teacher", "init"])
    assert list(table.index) == [
        (100_000, "", "random"),
        (100_000, "", "subclone"),
        (100_000, "", "principal"),
        (100_000, "0.9", "principal"),
        (200_000, "", "subclone"),
    ]
    assert table["share"].tolist() == ["never", "100%", "50%", "41%", "100%"]  # 1/3 and 1/2
    taught = table.loc[(100_000, "0.9", "principal")]
    assert taught["better"].value == pytest.approx(3)  # from 6 to 2 and to 4
    assert taught["better"].low < 2 < 4 < taught["better"].high


def test_the_table():
    grid = pd.concat([runs_of(ENDS), runs_of(ENDS, lr=2e-3).query("case == 'quarter'")])
    text = recipes_table(runs_of(ENDS), TOKENS, grid)
    assert text["time of so many tokens"].tolist() == ["100k"] * 4 + ["200k"]
    assert text["teacher's share"].tolist() == ["-", "-", "-", "0.9", "-"]
    assert text["tuning"].tolist() == ["2 x 2, lowest LR"] * 3 + ["1 x 2"] * 2
    assert text["at the end"].tolist()[1] == f"{math.exp(6):.1f}"
    assert text[""].tolist() == ["worse", "", "better", "open", ""]
    assert text["nats better"].tolist()[1] == text["subclone's end after"].tolist()[1] == "-"


def test_what_cannot_be_compared():
    with pytest.raises(SubcloningError, match=r"runs of case \['tiny'\], which .*equal_time_gpt2_stdlib.yaml does not"):
        recipes(runs_of({**ENDS, "tiny": ENDS["whole"]}), TOKENS)
    with pytest.raises(SubcloningError, match="no runs with init=subclone"):
        recipes(runs_of({"quarter_taught": ENDS["quarter"]}), TOKENS)


def test_cases_without_a_teacher_may_come_from_the_budgets(tmp_path):
    packages = replace(TOKENS, name="gpt2_packages")
    write_record(tmp_path / "runs.csv", losses({"random": [7.0, 7.0], "subclone": [6.0, 6.0]}))
    write_record(tmp_path / "budgets.csv", runs_of({"tokens_600k": ENDS["whole"], "tokens_10m": ENDS["quarter"]}))
    taught = {"tokens_10m_taught": {"principal": [2.0, 4.0]}}
    write_record(tmp_path / "equal_time.csv", runs_of(taught))
    table = recipes(read_evidence(tmp_path, packages).equal_time, packages)
    assert list(zip(table["budget"], table["teacher"], table["init"], strict=True)) == [
        (100_000, "", "random"),
        (100_000, "", "subclone"),
        (100_000, "", "principal"),
        (100_000, "0.9", "principal"),
    ]


def test_a_case_may_be_in_another_record_of_its_study(tmp_path):
    smollm2 = replace(TOKENS, name="smollm2")
    untaught, taught = ENDS["quarter"], {"principal": [2.0, 4.0]}
    write_record(tmp_path / "runs.csv", losses(untaught))
    write_record(tmp_path / "distilled.csv", runs_of({"distilled": taught}))
    write_record(tmp_path / "grid.csv", pd.concat([losses(untaught).assign(lr=lr) for lr in (1e-3, 2e-3)]))
    grid = [runs_of({"distilled": taught, "other": taught}, lr) for lr in (1e-3, 2e-3, 4e-3)]
    write_record(tmp_path / "distilled_grid.csv", pd.concat(grid))
    shorter = runs_of({"fifth": untaught, "fifth_taught": taught})
    write_record(tmp_path / "equal_time.csv", shorter.assign(tokens=shorter["tokens"] // 5))
    write_record(tmp_path / "equal_time_grid.csv", runs_of({"fifth_fading": taught}))
    found = read_evidence(tmp_path, smollm2)
    table = recipes_table(found.equal_time, smollm2, found.equal_time_grid)
    assert table["time of so many tokens"].tolist() == ["20k"] * 4 + ["100k"] * 4
    assert table["teacher's share"].tolist() == ["-", "-", "-", "0.9"] * 2
    assert table["tuning"].tolist() == ["2 x 2, lowest LR"] * 3 + ["3 x 2, lowest LR"] + ["2 x 2, lowest LR"] * 3 + [
        "3 x 2, lowest LR"
    ]
    assert found.budgets.groupby("case")["tokens"].max().to_dict() == {"fifth": 20_000, "whole": 100_000}


def test_the_figure_and_the_table_go_to_their_folder(tmp_path):
    folder = tmp_path / "equal_time"
    folder.mkdir()
    (folder / "README.md").write_text(f"<!-- {TOKENS.name} -->\n<!-- /{TOKENS.name} -->\n")
    equal_time(tmp_path, [Evidence(TOKENS, losses({}), equal_time=runs_of(ENDS))])
    assert (folder / f"{TOKENS.name}.png").exists()
    assert (folder / "README.md").read_text().count("`principal`") == 2
    (ax,) = recipes_figure(runs_of(ENDS), TOKENS).axes
    assert {line.get_label() for line in ax.lines} == {"subclone", "principal", "principal, teacher 0.9"}


@pytest.mark.parametrize(
    ("study", "key", "longer", "budgets", "over", "shares"),
    [
        ("digits", "epochs", 1.9, 3, 16, {"0.9", "0.9 to 0"}),
        ("gpt2_stdlib", "tokens", 2.07, 3, 16, {"0.9", "0.9 to 0"}),
        ("smollm2", "tokens", 2, 2, 5, {"0.9", "0.9 to 0"}),
        ("minilm", "tokens", 1.36, 3, 16, {"1"}),
    ],
)
def test_time_with_a_teacher_is_that_without(study, key, longer, budgets, over, shares):
    """So many fewer steps as each takes longer, by the figure that the config states."""
    file = ROOT / "configs" / "experiment" / f"equal_time_{study}.yaml"
    cases = yaml.safe_load(file.read_text())["cases"]
    of = places(STUDIES[study])
    lengths = {of[name][0]: case[key] for name, case in cases.items() if not case["distill"]}
    assert list(lengths) == [name for name, (_, teacher) in of.items() if not teacher]
    assert {teacher for _, teacher in of.values()} == {"", *shares}
    assert len(lengths) == budgets
    assert max(lengths.values()) / min(lengths.values()) >= over
    for name, case in cases.items():
        assert bool(case["distill"]) == bool(of[name][1])
        if case["distill"]:
            assert case[key] == pytest.approx(lengths[of[name][0]] / longer, rel=0.06)
