"""What `make demo-real` is made of, on tiny models; with the real one it is run by hand."""

import importlib.util
from pathlib import Path

import pytest
from tiny import llama, save_tokenizer

FOLDER = Path(__file__).parents[1] / "experiments" / "smollm2"


@pytest.fixture
def script(monkeypatch):
    """script("text", "folder") calls text.py with that argument."""

    def call(name, *words):
        spec = importlib.util.spec_from_file_location(f"demo_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        module.main()

    return call


def test_the_text_comes_with_python(script, tmp_path):
    script("text", tmp_path / "text")
    train, validation = (sorted((tmp_path / "text" / split).glob("*.txt")) for split in ("train", "validation"))
    assert len(train) > 8 * len(validation) > 0
    assert sum(file.stat().st_size for file in train) > 300_000
    assert "statement" in (tmp_path / "text" / "train" / "while.txt").read_text()


def test_plain_transformers_goes_on_with_a_sentence(script, tmp_path, capsys):
    runs = [tmp_path / f"pretrained-full-{init}" / "seed0" for init in ("random", "whole")]
    for number, folder in enumerate([tmp_path / "parent", *(run / "model" for run in runs)]):
        llama(seed=number, max_position_embeddings=64).save_pretrained(folder)
        save_tokenizer(folder, "the statement is used to say what is used")
    for run in runs:
        (run / "metrics.csv").write_text("tokens,step,val_loss\n0,0,3.5\n64,1,3\n128,2,2.25\n")
    script("continue", tmp_path)
    parent, random, child = capsys.readouterr().out.splitlines()
    assert parent.startswith("parent: ")
    assert random.startswith("random weights, loss 3.50 before training, 2.25 after 128 tokens: ")
    assert child.startswith("child, loss 3.50 before training, ")
    assert len(child.partition("tokens: ")[2]) > 20
