"""Setting documents aside for validation: by all of their text, whatever they begin with."""

import json

import numpy as np
import pytest

from subcloning.data.text import sources
from subcloning.data.text.sources import Hub, TextFiles

LICENCE = "Permission is hereby granted, free of charge, to any person obtaining a copy of this text. " * 20


def splits(folder, texts, kind="txt", share=0.1):
    """The split of each text, one a file or one a line."""
    folder.mkdir()
    if kind == "txt":
        for n, text in enumerate(texts):
            (folder / f"{n:05}.txt").write_text(text)
    else:
        (folder / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = TextFiles(f"{folder}/*.{kind}", validation_share=share)
    return [piece.split for unit in source.units for piece in source.read(unit)]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_documents_with_one_licence_are_divided(tmp_path, kind):
    found = splits(tmp_path / "texts", [f"{LICENCE}{n}" for n in range(500)], kind)
    assert len(LICENCE) > 1024
    assert 25 < found.count("validation") < 75


def test_rows_with_one_licence_are_divided(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": [f"{LICENCE}{n}" for n in range(500)]}).save_to_disk(tmp_path / "set")
    source = Hub(f"{tmp_path}/set", validation=0.1, parts=2)
    found = [piece.split for unit in source.units for piece in source.read(unit)]
    assert 25 < found.count("validation") < 75


def test_copies_are_in_one_split(tmp_path):
    found = np.array(splits(tmp_path / "texts", [f"{LICENCE}{n % 50}" for n in range(200)], share=0.5))
    assert {*found} == {"train", "validation"}
    assert all((found[n::50] == found[n]).all() for n in range(50))


def test_a_long_document_is_in_one_split_by_its_first_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 100)
    (tmp_path / "texts").mkdir()
    for n in range(40):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"a document of many lines, {n}\n" * 30)
    source = TextFiles(f"{tmp_path}/texts/*.txt", validation_share=0.5)
    documents, split = [], set()
    for piece in source.read(source.units[0]):
        split.add(piece.split)
        if piece.end:
            documents.append(split)
            split = set()
    assert len(documents) == 40
    assert all(len(found) == 1 for found in documents)
    assert {"train", "validation"} == {name for found in documents for name in found}


def test_the_rule_is_part_of_what_a_corpus_is():
    for source in (TextFiles("*.txt"), Hub("a/b", validation=0.01)):
        assert "first 1,048,576 characters" in source.description["split"]
