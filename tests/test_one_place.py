"""What an arm, a case and a study are stands in one place each, and tables and figures follow."""

import shutil

import pandas as pd
import pytest
import yaml
from test_analysis import DIGITS, ROOT, TOKENS, curves, losses

from subcloning import SubcloningError
from subcloning.analysis import __main__ as program
from subcloning.analysis import arms
from subcloning.analysis.arms import ARMS, BIGGER, load_arms
from subcloning.analysis.cases import cases_of, cases_table
from subcloning.analysis.comparisons import controls_figure, controls_table
from subcloning.analysis.convergence import convergence_figure, convergence_table
from subcloning.analysis.evidence import Evidence, completed
from subcloning.analysis.figures import report
from subcloning.analysis.study import Study, load_studies
from subcloning.analysis.tuning import tuning_table
from subcloning.collect import Run
from subcloning.training.folder import DESCRIPTIONS, _differing

MINE = "defaults: [_default]\nname: mine\nlabel: my own\nquestion: score\nselect: uniform\n"


@pytest.fixture
def add(tmp_path, monkeypatch):
    """add(text, name) puts an arm's file into a scratch copy of configs/init, which is then the one that counts."""
    folder = tmp_path / "init"
    shutil.copytree(ROOT / "configs" / "init", folder)

    def one(text, name="mine"):
        (folder / f"{name}.yaml").write_text(text)
        monkeypatch.setattr(arms, "ARMS", load_arms(folder))

    return one


def test_an_arm_is_added_in_one_file(add, tmp_path):
    arms = {"random": [16] * 3, "subclone": [4] * 3, "mine": [8] * 3, "principal": [3] * 3}
    runs = curves(arms).assign(val_loss=1.0)
    add(f'{MINE}colour: "#44AA99"\n')
    assert "| mine | 0.001 |" in report(tmp_path, Evidence(DIGITS, runs))
    assert (tmp_path / "convergence.png").exists()
    assert "mine" in set(tuning_table(runs, DIGITS)["init"])
    runs = pd.concat([runs, curves({"score_rms": [5] * 3})])
    table = controls_table(runs, DIGITS)
    assert table["init"].tolist() == ["`score_rms`", "`mine`", "`random`", "`principal`"]  # last of its question
    assert table.set_index("init").loc["`mine`", ["which", "instead"]].tolist() == ["score", "my own"]
    labels = [label.get_text() for label in controls_figure(runs, DIGITS).axes[0].get_yticklabels()]
    assert "score: my own" in labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE.replace("label: my own\n", ""), r"mine.yaml has no label: say what .* call mine"),
        ("defaults: [principal]\nname: mine\n", "mine.yaml has no label"),  # another arm's is not its own
        (MINE.replace("name: mine", "name: my"), r"mine.yaml has name: my: expected mine"),
    ],
)
def test_an_arm_that_does_not_say_what_it_is_is_refused(add, text, message):
    with pytest.raises(SubcloningError, match=message):
        add(text)


def test_an_arm_without_question_or_colour_is_refused_where_it_needs_one(add):
    add(MINE.replace("question: score\n", ""))
    runs = curves({"random": [16] * 3, "subclone": [4] * 3, "mine": [8] * 3}).assign(val_loss=1.0)
    assert convergence_table(runs, DIGITS)["init"].tolist() == ["random", "subclone", "mine"]
    with pytest.raises(SubcloningError, match=r"mine.yaml has no question"):
        controls_table(runs, DIGITS)
    with pytest.raises(SubcloningError, match=r"mine.yaml has no colour"):
        convergence_figure(runs, DIGITS)


def test_committed_arms():
    assert set(ARMS) == {file.stem for file in (ROOT / "configs" / "init").glob("[!_]*.yaml")} | {BIGGER.name}
    colours = [arm.colour for arm in ARMS.values() if arm.colour]
    labels = [arm.label for arm in ARMS.values()]
    answers = [(arm.question, arm.answer) for arm in ARMS.values() if arm.question]
    for found in (colours, labels, answers):
        assert len(set(found)) == len(found)


def test_what_an_arm_is_called_is_no_part_of_what_a_run_is(config):
    cfg = config("experiment=digits", "init=uniform")
    assert set(DESCRIPTIONS) - {"colour"} <= set(cfg.init)
    old = {"init": {"name": "uniform", "select": "uniform"}}
    new = {"init": old["init"] | dict.fromkeys(DESCRIPTIONS, "new")}
    assert _differing(old, new) == {}
    assert "init.select" in _differing(old, {"init": new["init"] | {"select": "first"}})
    options = [Run("", init, {}, 1.0, pd.DataFrame()).options for init in (old, new)]
    assert options[0] == options[1] == {"init.name": "uniform", "init.select": "uniform"}


def test_cases_are_in_the_order_of_their_file():
    for study in (DIGITS, TOKENS):
        files = [ROOT / "configs" / "experiment" / f"{kind}_{study.name}.yaml" for kind in ("cases", "distill")]
        written = [name for file in files for name in yaml.safe_load(file.read_text())["cases"]]
        assert list(cases_of(study)) == written
        arms = curves({"subclone": [4, 5], "random": [8, 9]})
        runs = pd.concat([arms.assign(case=case) for case in sorted(written)])
        runs = runs.assign(tokens=runs["epoch"], val_loss=1 - runs["val_accuracy"])
        found = cases_table(runs, study)["case"].unique().tolist()
        assert found == [case["label"] for case in cases_of(study).values()]
    assert cases_of(Study("epoch", "val_accuracy", 0.9, "time", (), name="none")) == {}


def test_controls_are_completed_by_the_studys_own_arms():
    own, paper = losses({"subclone": [4.0], "uniform": [5.0]}), losses({"subclone": [4.0], "random": [6.0]})
    again = losses({"subclone": [3.0], "principal": [2.0]})
    found = completed(again, own)
    assert sorted(found["init"].unique()) == ["principal", "subclone", "uniform"]
    assert found.loc[found["init"] == "subclone", "val_loss"].min() == 3.0  # as run again
    assert completed(again, None) is again
    assert completed(None, own) is own
    assert completed(None, paper) is None  # nothing beyond the paper to compare


def study_folder(root, name="mine", **changes):
    folder = root / name
    folder.mkdir()
    known = yaml.safe_load((ROOT / "experiments" / "digits" / "study.yaml").read_text()) | changes
    (folder / "study.yaml").write_text(yaml.safe_dump(known))
    return folder


def test_a_study_is_added_in_one_folder(tmp_path):
    folder = study_folder(tmp_path, label="my study")
    with pytest.raises(SubcloningError, match=r"mine has no run.sh"):
        load_studies(tmp_path)
    (folder / "run.sh").touch()
    study_folder(tmp_path, "a_larger_one", scale="small").joinpath("run.sh").touch()
    found = load_studies(tmp_path)
    assert [*found] == ["mine", "a_larger_one"]
    assert found["mine"].label == "my study"
    study_folder(tmp_path, "other", color="blue").joinpath("run.sh").touch()
    with pytest.raises(SubcloningError, match=r"other/study.yaml has .*color.*: expected label"):
        load_studies(tmp_path)


def test_an_unknown_study_or_figure_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["analysis", "digit"])
    with pytest.raises(SystemExit):
        program.main()
    error = capsys.readouterr().err
    assert "invalid choice: 'digit'" in error
    assert "'digits'" in error
    assert "'fig02'" in error
