"""What is collected: each finished run once, of one study, with exact times; the rest is refused, or left out aloud."""

import copy
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from subcloning import SubcloningError
from subcloning.analysis.runs import KEYS, read_runs
from subcloning.collect import collect, from_folders, from_wandb
from subcloning.training.finished import Run
from subcloning.training.record import CURVE

CONFIG = {
    "name": "study",
    "case": None,
    "parent": {"name": "big", "weights": {"path": "runs/parent/model"}},
    "destination": {"name": "half_width", "width": 0.5},
    "init": {"name": "subclone", "select": "importance", "scale": True},
    "data": {"name": "text", "workers": 0, "seed": 0},
    "optim": {"lr": 1e-3, "weight_decay": 0.1, "tokens": 1000},
    "distill": None,
    "seed": 0,
    "trainer": {"devices": 1},
    "micro_batch": None,
}
MAIN = 786_432_000  # tokens between two validations, which six digits do not hold at every multiple


def made(place: str = "runs/study/a", provenance: dict | None = None, **options) -> Run:
    """A run; optim__tokens=10 sets optim.tokens."""
    config = copy.deepcopy(CONFIG)
    for key, value in options.items():
        *groups, last = key.split("__")
        part = config
        for group in groups:
            part = part[group]
        part[last] = value
    config["data"]["seed"] = config["seed"]
    curve = pd.DataFrame({"tokens": [0, 2 * MAIN], "step": [0, 9], "val_loss": [5.0, 3.0]})
    return Run(place, config, provenance or {"revision": "1"}, 3.0, curve)


@pytest.mark.parametrize(
    "options",
    [
        {"optim__tokens": 10},
        {"destination__width": 0.25},
        {"parent__weights__path": "runs/another/model"},
        {"data__name": "images"},
        {"data__validate_every": 5},
        {"data__validations_per_epoch": 2},
        {"name": "another"},
        {"distill": {"weight": 0.5}},
        {"init__scale": False},
        {"init__select": {"residual": "uniform"}},
        {"case": "b"},
    ],
)
def test_runs_that_do_not_belong_together_are_refused(options, tmp_path):
    ((key, value),) = options.items()
    with pytest.raises(SubcloningError, match=r"runs/study/a and elsewhere/b are not of one study: ") as refusal:
        collect([made(), made("elsewhere/b", seed=1, **options)], tmp_path)
    key = ".".join([key.replace("__", "."), *(value if isinstance(value, dict) else ())])
    assert key in str(refusal.value)
    assert not any(tmp_path.iterdir())


def test_what_a_study_varies_is_collected(tmp_path):
    """Settings, seeds, arms with options of their own, and on what and how a run ran."""
    random = {"init__name": "random", "init__select": None, "init__scale": False}
    runs = [
        made(),
        made(seed=1, trainer__devices=8, micro_batch=4, data__workers=16),
        made(optim__lr=2e-3),
        made(optim__weight_decay=0.0, init__bridge=False),  # an option that older code had not, switched off
        made(**random),
    ]
    assert collect(runs, tmp_path).groupby(["init", "lr", "weight_decay", "seed"]).ngroups == 5
    own = {"optim__tokens": 10, "destination__width": 0.25, "init__scale": False}
    own |= {"data__validate_every": 5, "data__validations_per_epoch": 2}
    cases = [made(case="a"), made(case="b", **own)]
    assert collect(cases, tmp_path)["case"].tolist() == ["a", "a", "b", "b"]
    with pytest.raises(SubcloningError, match=r"not of one study: optim.tokens = 10 and 20\."):
        collect([*cases, made(case="b", **own | {"optim__tokens": 20, "init__name": "random"})], tmp_path)
    with pytest.raises(SubcloningError, match=r"not of one study: name = study and another\."):
        collect([*cases, made(case="c", name="another")], tmp_path)


def test_children_of_another_parent_in_the_same_place_are_refused(tmp_path):
    """As where half of a sweep was run on another machine, with a parent trained there."""

    def child(weights, seed, **options):
        return made(f"runs/{seed}", {"parent": {"sha256": weights} if weights else None}, seed=seed, **options)

    arms = [child(None, 0, init__name="random"), child("abc", 0), child("abc", 1, init__name="uniform")]
    assert len(collect(arms, tmp_path)) == 6
    arms[2].config["parent"]["weights"]["path"] = "/elsewhere/runs/parent/model"  # the same one
    assert len(collect(arms, tmp_path)) == 6
    with pytest.raises(
        SubcloningError, match=r"runs/0 and runs/2 are not of one study: contents\.parent\.sha256 = abc and def"
    ):
        collect([*arms, child("def", 2)], tmp_path)


def test_a_record_says_all_that_is_a_runs_own(tmp_path):
    """Typed, once, and of no machine; the rest of its config is not its own."""
    provenance = {"revision": "1", "data": {"train": 1347}, "gpus": []}
    places = {"runs": "/scratch/me/runs", "run_dir": "/scratch/me/runs/a", "tuned": {"random": {"lr": 2e-3}}}
    other = {"case": "b", "destination__width": 1.0, "parent__weights__path": "/home/me/weights/other"}
    random = {"init__name": "random", "init__select": None, "parent__weights": None}
    runs = [
        made("a", provenance, case="a", destination__width=0.5, parent__weights__path="/scratch/me/runs/big/model"),
        made("b", provenance, **other),
        made("c", provenance, **{key: other[key] for key in ("case", "destination__width")}, **random),
        made("d", provenance | {"revision": "2"}, **other, seed=1),
    ]
    for run in runs:
        run.config.update(places)
    collect(runs, tmp_path)
    record, no_weights = json.loads((tmp_path / "runs.json").read_text()), {"parent": {"weights": None}}
    assert record["common"]["provenance"] == {"data": {"train": 1347}, "gpus": []}
    assert record["arms"] == {
        "subclone": {"init": {"select": "importance"}},
        "random": {"init": {"select": None}, **no_weights},
    }
    assert record["cases"] == {"a": {"destination": {"width": 0.5}}, "b": {"destination": {"width": 1}}}
    table = pd.read_csv(tmp_path / "runs.csv", dtype=str, keep_default_na=False)
    own = ["parent.weights.path", "provenance.revision"]
    assert [*table] == [*KEYS, *own, "seconds", "tokens", "step", "val_loss"]
    assert table["parent.weights.path"].tolist() == ["runs/big/model", "", "weights/other", "weights/other"]
    assert table["tokens"].tolist() == [f"0 {2 * MAIN}"] * 4


def test_a_study_grows_over_sessions(tmp_path):
    """Runs collected at several times are those collected at once; what is found again counts."""
    random = {"init__name": "random", "init__select": None, "parent__weights": None}
    runs = [made(provenance={"revision": str(n), "parent": {"sha256": "1e5"}}, seed=n, case="a") for n in range(3)]
    runs += [made("d", {"revision": "1", "gpus": ["one"]}, case="b", optim__lr=2e-3, **random)]
    collect(runs, tmp_path / "once")
    collect(runs[1:3], tmp_path / "twice", keep=True)
    collect([], tmp_path / "twice", keep=True)
    collect([runs[3], runs[0]], tmp_path / "twice", keep=True)
    written = [
        [(tmp_path / name / file).read_text() for file in ("runs.csv", "runs.json")] for name in ("once", "twice")
    ]
    assert written[0] == written[1]
    again = runs[2]._replace(seconds=4.0)
    assert len(collect([again], tmp_path / "twice", keep=True)) == 8
    assert pd.read_csv(tmp_path / "twice" / "runs.csv")["seconds"].tolist() == [3, 3, 4, 3]
    with pytest.raises(SubcloningError, match=r"runs.csv, subclone, seed 1 are not of one study: optim.tokens"):
        collect([made(case="a", optim__tokens=20)], tmp_path / "twice", keep=True)


def folder(place, run: Run) -> None:
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(yaml.safe_dump(run.config))
    (place / "provenance.json").write_text(json.dumps(run.provenance))
    (place / "summary.json").write_text(json.dumps({"seconds": run.seconds}))
    run.curve.to_csv(place / "metrics.csv", index=False)


def test_a_copied_folder_is_refused(tmp_path):
    for name in ("seed0", "seed0_copy"):
        folder(tmp_path / "study" / name, made())
    with pytest.raises(SubcloningError, match=r"study/seed0 and .*study/seed0_copy are the same run, .*'seed': 0"):
        collect(from_folders(tmp_path / "study"), tmp_path / "out")


def test_unfinished_runs_are_left_out_aloud(tmp_path, capsys):
    for name, seed in (("seed0", 0), ("seed1", 1)):
        folder(tmp_path / "study" / name, made(seed=seed))
    (tmp_path / "study" / "seed1" / "summary.json").unlink()
    assert len(collect(from_folders(tmp_path / "study"), tmp_path / "out")) == 2
    said = capsys.readouterr().out
    assert f"left out, not finished: {tmp_path}/study/seed1" in said
    assert f"collected 1 runs into {tmp_path}/out" in said


def online(monkeypatch, *answers) -> None:
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(runs=lambda *_, **__: answers))


def answer(run: Run, rows: list[dict], **summary) -> SimpleNamespace:
    return SimpleNamespace(
        id=run.place,
        name=run.place,
        config=run.config | {"provenance": run.provenance},
        summary=summary,
        scan_history=lambda: rows,
    )


def test_wandb_gives_the_same_table_with_exact_times_and_diverged_losses(tmp_path, monkeypatch):
    run = made()
    steps = range(0, 20, 5)
    times = {"epoch": [step / 10 for step in steps], "tokens": [MAIN * step for step in steps], "step": [*steps]}
    curve = pd.DataFrame({**times, "val_loss": [5.12345678, float("nan"), float("inf"), 3.0]})
    folder(tmp_path / "study" / "seed0", run._replace(curve=curve))
    collect(from_folders(tmp_path / "study"), tmp_path / "folders")
    rows = [{f"{CURVE}{key}": value for key, value in row.items()} for row in curve.to_dict("records")]
    rows[1][f"{CURVE}val_loss"], rows[2][f"{CURVE}val_loss"] = "NaN", "Infinity"  # as W&B writes them
    online(monkeypatch, answer(run, rows, seconds=3))
    collect(from_wandb("me/mine", "study"), tmp_path / "online")
    for name in ("runs.csv", "runs.json"):
        assert (tmp_path / "online" / name).read_text() == (tmp_path / "folders" / name).read_text()
    assert read_runs(tmp_path / "online" / "runs.csv")["tokens"].tolist() == [MAIN * step for step in steps]


def test_a_crashed_run_in_wandb_is_left_out_aloud(tmp_path, monkeypatch, capsys):
    done, crashed = made("done"), made("crashed", seed=1)
    rows = [{f"{CURVE}step": 0, f"{CURVE}val_loss": 5}]
    online(monkeypatch, answer(done, rows, seconds=3), answer(crashed, rows))
    assert collect(from_wandb("me/mine", "study"), tmp_path)["seed"].tolist() == [0]
    assert "left out, not finished: crashed" in capsys.readouterr().out
