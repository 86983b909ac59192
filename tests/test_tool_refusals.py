"""`subclone` refuses what it cannot do, and leaves nothing half made."""

import errno
import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import gpt2

from subcloning import Plan
from subcloning.tool.__main__ import main


def drop(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def break_value(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reshape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def edit(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "has missing keys, transformer.h.1.mlp.c_fc.weight among them"),
        (reshape, "has mismatched keys, "),
        (break_value, "NaN"),
        (cut, "damaged or not whole"),
        (pickle, "only pytorch_model.bin, which may be pickled"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is the download whole?"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (edit(quantization_config={"bits": 4}), "is quantised"),
        (edit(architectures=["GPTNeoForCausalLM"], model_type="gpt_neo"), "no model family for GPTNeoForCausalLM"),
        (edit(architectures=["Nonesuch"]), "of architecture Nonesuch, which this transformers does not have"),
        (write("config.json", '{"model_type": "gp'), "its config.json makes no model; is it whole"),
        (write("config.json", "[1]"), "its config.json makes no model"),
        (write("config.json", "{}"), "its config.json makes no model"),  # as of timm, without an architecture
        (edit(model_type="nonesuch"), "its config.json makes no model; is it whole, and of one that this transformers"),
        (edit(architectures=["set_seed"]), "its config.json makes no model"),
        (edit(n_head=5), "its config.json makes no model"),
        (edit(n_embd="wide"), "its config.json makes no model"),
        (write("generation_config.json", "[]"), "damaged or not whole"),
        (write("tokenizer.json", "{}"), "has no tokenizer that can be read"),
        (lose_tokenizer, "has no tokenizer: expected tokenizer.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_checkpoints_that_are_refused(checkpoint, text, tmp_path, capsys, damage, message):
    parent = checkpoint(gpt2())
    damage(parent)
    options = ["--width", "0.5", "--calibration", str(text), "--samples", "9"]
    assert main([str(parent), str(tmp_path / "child"), *options]) == 1
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir() if "child" in file.name] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "0.3"], "heads keep their size"),
        (["--width", "0.5"], "--select principal needs data to score units by"),
        (["--width", "0.5", "--select", "uniform", "--refit"], "--refit needs --calibration"),
        (["--width", "0.5", "--calibration", "TEXT", "--samples", "5000"], "give more data, or --samples"),
        (["--width", "0.5", "--calibration", "nowhere.txt"], "no file matches 'nowhere.txt'"),
        (["--width", "0.5", "--calibration", "./nowhere"], "./nowhere cannot be read as text"),
        (["--heads", "5"], "the parent has 4, so expected 1 to 4"),
        (["--width", "0.5", "--scores", "weights", "--select", "principal"], "what --select principal needs"),
        (["--width", "0.5", "--scores", "weights", "--blocks", "least"], "what --blocks least needs"),
    ],
)
def test_options_that_are_refused(checkpoint, text, tmp_path, capsys, options, message):
    parent = checkpoint(gpt2())
    options = [str(text) if option == "TEXT" else option for option in options]
    assert main([str(parent), str(tmp_path / "child"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "child").exists()


def test_devices_without_accelerate_are_refused(checkpoint, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transformers.utils, "is_accelerate_available", lambda: False)
    options = ["--calibration", str(text), "--device-map", "auto"]
    assert main(["score", str(checkpoint(gpt2())), str(tmp_path / "scores.safetensors"), *options]) == 1
    assert "--device-map auto needs accelerate" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--depth", "x"], ["--depth", "0"], ["--width", "-0.5"], ["--samples", "0"]])
def test_numbers_that_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "child"), *option])
    assert f"argument {option[0]}: invalid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (write("tokenizer.json", "[]"), "tokenizer"),
        (write("tokenizer_config.json", '{"a":'), "tokenizer"),
        (write("generation_config.json", '{"a":'), "generation config"),
        (lose_tokenizer, "tokenizer"),
    ],
)
def test_what_a_child_goes_without_is_said(checkpoint, tmp_path, capsys, damage, missing):
    parent = checkpoint(gpt2())
    damage(parent)
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform"]) == 0
    assert f"the child goes without a {missing}: " in capsys.readouterr().err
    assert (tmp_path / "child" / "model.safetensors").exists()


@pytest.mark.parametrize("architecture", ["BertModel", "RobertaModel"])
def test_an_empty_tokenizer_is_none(architecture, text, tmp_path, capsys):
    """Of such models transformers makes one without any file, which reads all words as unknown."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    kind = getattr(transformers, architecture)
    kind(kind.config_class(**sizes, vocab_size=37)).save_pretrained(tmp_path / "parent")
    options = ["--width", "0.5", "--calibration", str(text)]
    assert main([str(tmp_path / "parent"), str(tmp_path / "child"), *options]) == 1
    assert "has no tokenizer: expected tokenizer.json" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(checkpoint, text, tmp_path, capsys):
    parent = checkpoint(gpt2(vocab_size=20))
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--calibration", str(text)]) == 1
    assert "and its model has 20: are they of one checkpoint?" in capsys.readouterr().err


def test_places_that_are_refused(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "weights.pt").touch()
    for parent, out, message in [
        ("./nowhere", "child", "does not exist: expected a folder"),
        ("nonesuch", "child", "is no folder, no timm model and no Hub name"),
        (tmp_path / "weights.pt", "child", "may be pickled"),
        (tmp_path / "there", "child", "has no config.json"),
    ]:
        assert main([str(parent), str(tmp_path / out), "--width", "0.5"]) == 1
        assert message in capsys.readouterr().err


def test_a_folder_that_exists_stays_as_it_is(checkpoint, tmp_path, capsys):
    parent, out = checkpoint(gpt2()), tmp_path / "child"
    out.write_text("mine")
    assert main([str(parent), str(out), "--width", "0.5", "--select", "uniform"]) == 1
    assert "exists: choose a folder that does not" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_stopped_midway_it_leaves_nothing(checkpoint, tmp_path, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("subcloning.tool.__main__.card", stop)
    parent = checkpoint(gpt2())
    before = {file.name for file in tmp_path.iterdir()}
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == before


def test_a_disk_that_is_too_small_is_found_before_the_weights_are_read(checkpoint, tmp_path, monkeypatch, capsys):
    parent = checkpoint(gpt2())
    (parent / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform"]) == 1
    assert "child needs 0.0 GB" in (said := capsys.readouterr().err)
    assert "has 0.0: make room" in said


def test_a_disk_that_is_full_leaves_nothing(checkpoint, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Plan, "save", full)
    parent = checkpoint(gpt2())
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["parent"]
