"""A corpus prepared before is used for the same text and tokenizer only, and read again only when it may differ."""

import json
import os
import shutil

import datasets
import pytest
from tokenizers import pre_tokenizers

from subcloning import SubcloningError
from subcloning.data import contents as contents_module
from subcloning.data.contents import contents, is_place, remembered
from subcloning.data.text.corpus import Corpus
from subcloning.data.text.sources import Hub, Stdlib, TextFiles
from subcloning.data.text.tokenizer import END_OF_TEXT, Pretrained

OTHER = "holds another corpus: its text is .*, wanted .*Give this one a folder of its own, or remove that one"


def bpe(folder, merge="a b"):
    """A tokenizer of bytes and one merge, as OpenAI published GPT-2's."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), merge.replace(" ", ""), END_OF_TEXT]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merge}\n")
    return Pretrained(str(folder))


def texts(folder, word="abab"):
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.txt").write_text(f"{word} {n}")
    (folder / "valid.text.txt").write_text("ab")
    return source(folder)


def source(folder):
    return TextFiles(f"{folder}/?.txt", f"{folder}/valid.*")


@pytest.fixture
def corpus(tmp_path):
    """corpus(text=, tokenizer=): prepared in the one folder, from the same ones if no others are given."""
    texts(tmp_path / "texts")
    bpe(tmp_path / "bpe")

    def prepare(text=None, tokenizer=None):
        text, tokenizer = text or source(tmp_path / "texts"), tokenizer or Pretrained(f"{tmp_path}/bpe")
        made = Corpus(tmp_path / "corpus", text, tokenizer)
        made.prepare(1)
        return made.open()

    prepare()
    return prepare


def test_a_copy_of_the_text_elsewhere_is_the_same_text(corpus, tmp_path):
    shutil.copytree(tmp_path / "texts", tmp_path / "copy")
    corpus(source(tmp_path / "copy"))


def test_text_of_another_root_is_refused(corpus, tmp_path):
    with pytest.raises(SubcloningError, match=OTHER):
        corpus(texts(tmp_path / "other", "baba"))  # names and sizes are the same


def test_text_of_another_glob_is_refused(corpus, tmp_path):
    (tmp_path / "texts" / "sub").mkdir()
    (tmp_path / "texts" / "sub" / "3.txt").write_text("abab 3")
    with pytest.raises(SubcloningError, match=OTHER):
        corpus(TextFiles(f"{tmp_path}/texts/**/?.txt", f"{tmp_path}/texts/valid.*"))


def test_a_file_replaced_in_place_is_noticed(corpus, tmp_path):
    file = tmp_path / "texts" / "1.txt"
    before = file.stat()
    (tmp_path / "new").write_text("baba 1")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync -t leave it
    os.replace(tmp_path / "new", file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(SubcloningError, match=OTHER):
        corpus()


def test_source_and_tokenizer_may_be_gone(corpus, tmp_path):
    shutil.rmtree(tmp_path / "texts")
    shutil.rmtree(tmp_path / "bpe")
    assert corpus().manifest["splits"]["train"]["documents"] == 3


def test_text_of_which_a_part_is_gone_is_refused(corpus, tmp_path):
    (tmp_path / "texts" / "1.txt").unlink()
    with pytest.raises(SubcloningError, match=OTHER):
        corpus()


def test_another_tokenizer_of_the_same_name_is_refused(corpus, tmp_path):
    with pytest.raises(SubcloningError, match=r"its tokenizer's sha256 is \w+, wanted \w+"):
        corpus(tokenizer=bpe(tmp_path / "other" / "bpe", merge="b a"))
    corpus(tokenizer=bpe(tmp_path / "same" / "bpe"))


def test_names_on_the_hub_are_whole():
    assert Pretrained("mine/gpt2").description != Pretrained("openai-community/gpt2").description
    assert [is_place(path) for path in ("gpt2", "a/gpt2", "/gone/gpt2", "./gpt2", "~/gpt2", "a/b/gpt2")] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_another_standard_library_is_refused(corpus, tmp_path, monkeypatch):
    def stdlib(line):
        source = Stdlib(validation=0.5)
        source.root = tmp_path / "lib" / line
        source.root.mkdir(parents=True, exist_ok=True)
        for n in range(9):
            (source.root / f"m{n}.py").write_text(line)
        return source

    Corpus(tmp_path / "std", stdlib("a = 1"), bpe(tmp_path / "bpe")).prepare(1)
    with pytest.raises(SubcloningError, match=OTHER):
        Corpus(tmp_path / "std", stdlib("a = 2"), bpe(tmp_path / "bpe")).open()


def test_a_local_set_of_the_datasets_library(tmp_path):
    for name, word in (("one", "ab"), ("two", "ba")):
        rows = datasets.Dataset.from_dict({"text": [f"{word} {n}" for n in range(20)]})
        rows.save_to_disk(tmp_path / name / "set")

    def prepared(place):
        made = Corpus(tmp_path / "corpus", Hub(str(place / "set"), validation=0.5, parts=1), bpe(tmp_path / "bpe"))
        made.prepare(1)
        return made.open()

    prepared(tmp_path / "one")
    with pytest.raises(SubcloningError, match=OTHER):
        prepared(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    prepared(tmp_path / "one")


def test_the_commit_of_a_set_on_the_hub_is_written_down(monkeypatch):
    class Builder:
        hash = "c0ffee"

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **args: Builder if args["path"] == "a/b" else None)
    source = Hub("a/b")
    source.sets = {}
    assert source.contents == {"shards": {}, "commit": "c0ffee"}
    assert source.paths == {}


def test_files_are_hashed_once_while_they_do_not_change(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(contents_module, "sha256", lambda file: read.append(file.name) or file.read_text())
    for name in "ab":
        (tmp_path / name).write_text(name)
    files, memory = [tmp_path / "a", tmp_path / "b"], tmp_path / "memory.json"
    first = contents(files, memory)
    assert contents(files, memory) == first
    assert sorted(read) == ["a", "b"]
    (tmp_path / "a").write_text("a")  # touched: read again, and the same
    assert contents(files, memory) == first
    assert len(read) == 4
    (tmp_path / "a").write_text("c")
    assert contents(files, memory)["sha256"] != first["sha256"]
    assert contents(files[::-1], memory, "other")["sha256"] != first["sha256"]


def test_memory_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write anywhere
    assert [remembered(tmp_path / "memory.json", "x", [], lambda: 5) for _ in range(2)] == [5, 5]
    assert list(tmp_path.iterdir()) == []


def test_shards_are_verified_once(corpus, tmp_path, monkeypatch):
    shard = next((tmp_path / "corpus").glob("train*.npy"))
    corpus()
    monkeypatch.setattr("subcloning.data.text.corpus.sha256", lambda file: "0" if file.suffix == ".npy" else "manifest")
    corpus()  # not read again
    os.utime(shard)
    with pytest.raises(SubcloningError, match="npy is damaged"):
        corpus()
