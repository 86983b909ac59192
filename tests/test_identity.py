"""Which run a folder holds: what changes results is compared, places are not, and contents are."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from test_interruptions import Signals
from test_training import TINY

from subcloning import SubcloningError
from subcloning.training import run as run_module
from subcloning.training.interruptions import Interrupted
from subcloning.training.run import run
from subcloning.training.weights import contents


@pytest.fixture
def trained(config, tmp_path):
    """A tiny parent's weights."""
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1"))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    return weights


@pytest.fixture
def child(config, trained):
    """child(...) is the config of a run from that parent."""

    def make(*options, weights=trained):
        place = f"parent.weights.checkpoint_path='{weights}'"
        return config("experiment=digits", *TINY, place, "init=subclone", "optim.epochs=1", *options)

    return make


def train_again(weights):
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights)


@pytest.fixture
def stopped(child, during):
    with pytest.raises(Interrupted), during(Signals([7], signal.SIGUSR1)):
        run(child())
    return child()


@pytest.mark.parametrize(
    "option", ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "trainer.precision=64-true"]
)
def test_what_changes_the_numbers_is_another_run(child, option):
    run(child(option))
    key = option.lstrip("+").partition("=")[0]
    with pytest.raises(SubcloningError, match=f"holds another run: {key} = "):
        run(child())


def test_what_it_runs_on_is_not(child):
    first = run(child())
    assert run(child("trainer.accelerator=cpu", "trainer.devices=1")) == first


def test_a_parent_that_moved_is_the_same_parent(child, trained, tmp_path, monkeypatch, capsys):
    first = run(child())
    moved = shutil.move(trained, tmp_path / "moved.safetensors")
    assert run(child(weights=moved)) == first
    monkeypatch.chdir(tmp_path)
    assert run(child(weights="moved.safetensors")) == first
    assert run(child()) == first  # which is not there any more, and not needed
    assert capsys.readouterr().out.count("done before") == 3


@pytest.mark.parametrize("state", ["done", "stopped"])
def test_a_parent_trained_again_in_its_place_is_another_parent(child, trained, request, state):
    cfg = child() if state == "done" else request.getfixturevalue("stopped")
    if state == "done":
        run(cfg)
    recorded = json.loads((Path(cfg.run_dir) / "provenance.json").read_text())["parent"]
    assert recorded == contents(trained)
    train_again(trained)
    with pytest.raises(SubcloningError, match=r"whose parent had other weights: sha256 .*Was the parent trained again"):
        run(cfg)


def test_one_value_of_a_large_file_among_few_is_noticed(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"weights": torch.zeros(100_000)}, file)
    before = contents(file)
    save_file({"weights": torch.zeros(100_000).index_fill(0, torch.tensor([77_777]), 1e-3)}, file)
    assert contents(file) != before


def test_random_weights_have_no_parent(child):
    first = run(child("init=random"))
    assert json.loads((Path(child("init=random").run_dir) / "provenance.json").read_text())["parent"] is None
    assert run(child("init=random", weights="/elsewhere")) == first


def test_a_run_goes_on_without_its_parent(stopped, trained):
    trained.unlink()
    assert run(stopped)["epoch"] == 1


def test_other_data_in_the_same_place(stopped, monkeypatch):
    from subcloning.data.images import digits

    def darker():
        found = load()
        found.images = found.images / 2
        return found

    load = digits.load_digits
    monkeypatch.setattr(digits, "load_digits", darker)
    with pytest.raises(SubcloningError, match="holds a run on other data: sample_sha256"):
        run(stopped)


TEXT = ["experiment=gpt2_stdlib_parent", "logger=csv", "parent.model.n_embd=16", "parent.model.n_layer=1"]
TEXT += ["parent.model.n_positions=32", "optim.batch_tokens=256", "optim.tokens=512", "optim.warmup_tokens=256"]
TEXT += ["optim.validate_every=256", "data.validation_tokens=512"]


def test_a_corpus_that_moved_is_the_same_and_another_in_its_place_is_not(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCLONING_CORPORA", str(tmp_path / "here"))
    first = run(config(*TEXT))
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.setenv("SUBCLONING_CORPORA", str(tmp_path / "there"))
    assert run(config(*TEXT)) == first
    (manifest,) = (tmp_path / "there").glob("*/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(SubcloningError, match="holds a run on other data: corpus_sha256"):
        run(config(*TEXT))


def test_a_damaged_record_is_named(child):
    cfg = child()
    first = run(cfg)
    for name in ("summary.json", "provenance.json", "config.yaml"):
        file = Path(cfg.run_dir) / name
        whole = file.read_text()
        for damage in ("", "{ half a l", "[1]"):
            file.write_text(damage)
            with pytest.raises(SubcloningError, match=f"(?s){name} .*remove"):
                run(cfg)
        file.write_text(whole)
    assert run(cfg) == first


def test_without_its_damaged_summary_a_run_is_finished_again(child):
    cfg = child()
    first = run(cfg)
    (Path(cfg.run_dir) / "summary.json").unlink()
    assert {**run(cfg), "seconds": 0} == {**first, "seconds": 0}


def test_one_setting_has_one_folder(child):
    assert child("optim.lr=1e-3").run_dir == child("optim.lr=0.001").run_dir
    with pytest.raises(SubcloningError, match=r"optim.weight_decay=0.0: write 0, so that"):
        run(child("optim.weight_decay=0.0"))


def test_a_start_under_other_circumstances_is_recorded(stopped, monkeypatch):
    known = json.loads((Path(stopped.run_dir) / "provenance.json").read_text())
    assert "resumed" not in known
    provenance = run_module.provenance
    monkeypatch.setattr(run_module, "provenance", lambda: provenance() | {"gpus": ["NVIDIA H100"]})
    run(stopped)
    found = json.loads((Path(stopped.run_dir) / "provenance.json").read_text())
    assert found == {**known, "resumed": [{"gpus": ["NVIDIA H100"]}]}


def test_where_code_lies_is_not_the_run(child):
    """A folder of before the code was moved is known again."""
    first = run(child())
    file = Path(child().run_dir) / "config.yaml"
    file.write_text(file.read_text().replace("subcloning.data.images.digits", "subcloning.data.digits"))
    assert "subcloning.data.digits" in file.read_text()
    assert run(child()) == first


def test_a_record_holds_no_lookup_tables(child):
    """A folder of before, whose config.yaml has them, is the same run."""
    cfg = child("++tuned.random.lr=0.1", "+cases.half.label=1/2", "+parents.early=null")
    first = run(cfg)
    file = Path(cfg.run_dir) / "config.yaml"
    known = OmegaConf.load(file)
    assert known.keys() == cfg.keys() - {"tuned", "cases", "parents"}
    OmegaConf.save(OmegaConf.merge(known, {"tuned": {"random": {"lr": 1.0}}}), file)
    assert run(cfg) == first
