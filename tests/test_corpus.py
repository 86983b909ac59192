"""Corpora: the same bytes however they are prepared, and refusals."""

import gzip
import hashlib
import json
import lzma
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from subcloning import SubcloningError
from subcloning.data.text.corpus import Corpus
from subcloning.data.text.datamodule import TextData
from subcloning.data.text.sources import Hub, Stdlib, TextFiles, by_hash
from subcloning.data.text.tokenizer import END_OF_TEXT, Pretrained, TrainedBPE
from subcloning.data.text.tokens import Blocks, TokenStream

WORDS = ["neuron", "head", "block", "parent", "child", "naïve", "\tindent", "日本", END_OF_TEXT, "scale"]


def documents(count=40, seed=0):
    random = np.random.default_rng(seed)
    return [f"Document {n}\n" + " ".join(random.choice(WORDS, random.integers(1, 400))) for n in range(count)]


def write(path, texts):
    """Texts, one empty line apart in .txt, one per line in .jsonl, compressed as the name says."""
    if ".jsonl" in path.suffixes:
        data = "".join(json.dumps({"text": text, "meta": 1}) + "\n" for text in texts).encode()
    else:
        data = "\n\n".join(texts).encode()
    compress = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    path.write_bytes(compress.get(path.suffix, bytes)(data))
    return path


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for part in range(3):
        write(folder / f"part{part}.txt.xz", documents(seed=part))
    return folder


def corpus(folder, source, shard_mib=0.01, vocab_size=300):
    return Corpus(folder, source, TrainedBPE(vocab_size), shard_mib=shard_mib)


def files(texts):
    return TextFiles(f"{texts}/*.txt.xz", validation_share=0.2, separator="")


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and "lock" not in path.name and path.name != "checked.json"
    }


@pytest.fixture(scope="session")
def prepared(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "one"
    corpus(folder, files(texts)).prepare(processes=1)
    return folder


def decoded(tokens, split="train"):
    stream = tokens.splits[split]
    tokenizer = AutoTokenizer.from_pretrained(tokens.folder / "tokenizer")
    ids = stream.read(0, len(stream)).tolist()
    ends = [n for n, token in enumerate(ids) if token == tokens.manifest["end_of_text"]]
    starts = [0, *(n + 1 for n in ends)]
    return [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends, strict=False)]


def test_same_bytes_whatever_the_processes(texts, prepared, tmp_path):
    corpus(tmp_path / "three", files(texts)).prepare(processes=3)
    assert digest(tmp_path / "three") == digest(prepared)
    assert len(list(prepared.glob("train-*.npy"))) > 5
    assert {path.name for path in prepared.iterdir() if path.suffix != ".npy"} == {
        "manifest.json",
        "tokenizer",
        "source.json",
        "checked.json",
        "checked.lock",
        "lock",
        "lock-0-of-1",
    }


def test_every_document_is_there_once_and_ends_in_end_of_text(texts, prepared):
    tokens = corpus(prepared, files(texts)).open()
    wanted = [text for part in range(3) for text in documents(seed=part)]
    found = decoded(tokens) + decoded(tokens, "validation")
    # Text that spells the end-of-text token is text, and does not end a document.
    assert any(END_OF_TEXT in text for text in wanted)
    assert sorted(text.strip("\n") for text in found) == sorted(wanted)
    info = tokens.manifest["splits"]
    assert (info["train"]["documents"], info["validation"]["documents"]) == (
        len(decoded(tokens)),
        len(decoded(tokens, "validation")),
    )
    assert 10 <= info["validation"]["documents"] <= 40
    assert info["train"]["tokens"] == len(tokens.splits["train"])


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl", ".jsonl.zst"])
def test_formats_give_the_same_tokens(suffix, tmp_path):
    separator = None if ".jsonl" in suffix else ""
    for name, kind in (("plain", ".txt"), ("other", suffix)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"train{kind}", documents())
        write(tmp_path / name / f"valid{kind}", documents(5, seed=9))
    found = []
    for name, kind, sep in (("plain", ".txt", ""), ("other", suffix, separator)):
        source = TextFiles(f"{tmp_path}/{name}/train{kind}", f"{tmp_path}/{name}/valid{kind}", separator=sep)
        folder = tmp_path / f"corpus-{name}"
        made = corpus(folder, source)
        made.prepare(1)
        found.append([text.strip("\n") for split in ("train", "validation") for text in decoded(made.open(), split)])
    assert found[0] == found[1]
    assert len(found[0]) == 45


def test_long_documents_come_in_pieces_but_end_once(tmp_path, monkeypatch):
    monkeypatch.setattr("subcloning.data.text.sources.PIECE", 1000)
    text = "\n".join(documents(10)) + "\n"
    (tmp_path / "book.txt").write_text(text)
    pieces = list(TextFiles(f"{tmp_path}/*.txt").read(([f"{tmp_path}/book.txt"], "train")))
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len({piece.split for piece in pieces}) == 1


KILLED = """
import sys
from subcloning.data.text.corpus import Corpus
from subcloning.data.text.sources import TextFiles
from subcloning.data.text.tokenizer import TrainedBPE
source = TextFiles(sys.argv[2] + "/*.txt.xz", validation_share=0.2, separator="")
Corpus(sys.argv[1], source, TrainedBPE(300), shard_mib=0.002).prepare(2)
"""


def test_kill_at_any_moment_and_go_on(texts, tmp_path):
    corpus(tmp_path / "undisturbed", files(texts), shard_mib=0.002).prepare(2)
    whole = digest(tmp_path / "undisturbed")
    folder, random, kills = tmp_path / "killed", np.random.default_rng(0), 0
    for _ in range(30):
        before = len(list(folder.glob("parts/*.json")))
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(texts)], stderr=subprocess.DEVNULL)
        # Wait for the first sign of progress, and a random moment more: imports take most of the time.
        while process.poll() is None and len(list(folder.glob("parts/*.json"))) in (0, before):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3) if kills else 0)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        # What is there under its final name is whole.
        for path in folder.glob("*.npy"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[path.name]
        if (folder / "manifest.json").exists():
            break
        if kills == 3:
            corpus(folder, files(texts), shard_mib=0.002).prepare(2)
    assert kills >= 1
    assert digest(folder) == whole


def test_changed_text_is_noticed_when_preparation_goes_on(texts, tmp_path, monkeypatch):
    write(tmp_path / "a.txt", documents())
    source = TextFiles(f"{tmp_path}/*.txt")
    monkeypatch.setattr("subcloning.data.text.corpus.encode", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus(tmp_path / "c", source).prepare(1)
    monkeypatch.undo()
    write(tmp_path / "a.txt", documents(seed=5))
    with pytest.raises(SubcloningError, match="holds another corpus: its contents is"):
        corpus(tmp_path / "c", TextFiles(f"{tmp_path}/*.txt")).prepare(1)


def test_prepared_corpus_needs_its_source_no_more(prepared, tmp_path):
    again = corpus(prepared, files(tmp_path / "gone"))
    assert again.prepare() == again.open().manifest


def test_another_corpus_in_the_folder_is_refused(texts, prepared):
    with pytest.raises(SubcloningError, match="holds another corpus: its tokenizer is"):
        corpus(prepared, files(texts), vocab_size=400).prepare()
    with pytest.raises(SubcloningError, match="holds another corpus: its source is"):
        corpus(prepared, TextFiles(f"{texts}/*.xz")).open()


@pytest.fixture
def damaged(texts, prepared, tmp_path):
    """damaged(change): a copy of the corpus with a shard changed, and opened."""
    import shutil

    shutil.copytree(prepared, tmp_path / "copy")

    def open_(change, **options):
        path = sorted((tmp_path / "copy").glob("train-*.npy"))[2]
        content = change(path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)
        return corpus(tmp_path / "copy", files(texts)).open(**options)

    return open_


def test_truncated_shard(damaged):
    with pytest.raises(SubcloningError, match=r"npy has \d+ bytes, expected \d+: remove .* and prepare it again"):
        damaged(lambda content: content[:-7], verify=False)


def test_damaged_shard(damaged):
    with pytest.raises(SubcloningError, match="npy is damaged, its sha256 is not the manifest's"):
        damaged(lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


def test_missing_shard(damaged):
    with pytest.raises(SubcloningError, match="npy is missing"):
        damaged(lambda content: None)


def test_unprepared_corpus(texts, tmp_path):
    with pytest.raises(SubcloningError, match=r"holds no prepared corpus: run python -m subcloning\.prepare"):
        corpus(tmp_path, files(texts)).open()


def test_source_errors(tmp_path):
    with pytest.raises(SubcloningError, match=r"no file matches '.*nothing.*\.txt'"):
        corpus(tmp_path / "c", TextFiles(f"{tmp_path}/nothing*.txt")).prepare(1)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(SubcloningError, match=r"expected .txt or .jsonl"):
        corpus(tmp_path / "c", TextFiles(f"{tmp_path}/*.parquet")).prepare(1)
    good = write(tmp_path / "good.txt.xz", documents()).read_bytes()
    (tmp_path / "cut.txt.xz").write_bytes(good[: len(good) // 2])
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"tex')
    (tmp_path / "key.jsonl").write_text('{"content": "a"}\n')
    for name in ("cut.txt.xz", "latin.txt", "bad.jsonl", "key.jsonl"):
        with pytest.raises(SubcloningError, match=f"{name} is damaged, or not text"):
            corpus(tmp_path / "c" / name, TextFiles(f"{tmp_path}/{name}")).prepare(1)
    with pytest.raises(SubcloningError, match=r"good.txt.xz is in both train and validation"):
        corpus(tmp_path / "e", TextFiles(f"{tmp_path}/*.xz", f"{tmp_path}/good*")).prepare(1)
    with pytest.raises(SubcloningError, match=r"vocab_size=5000: this corpus gives \d+ tokens"):
        corpus(tmp_path / "d", TextFiles(f"{tmp_path}/good.txt.xz"), vocab_size=5000).prepare(1)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_set_saved_to_disk_and_nodes_share_the_work(streaming, tmp_path):
    for split, texts in {"train": documents(), "validation": documents(6, seed=3)}.items():
        rows = datasets.Dataset.from_dict({"text": texts, "other": list(range(len(texts)))})
        if streaming:  # Parquet files, as a set on the Hub has them
            (tmp_path / "set").mkdir(exist_ok=True)
            for shard in range(3):
                rows.shard(3, shard, contiguous=True).to_parquet(tmp_path / "set" / f"{split}-{shard}.parquet")
        else:
            rows.save_to_disk(tmp_path / "set" / split)
    if not streaming:
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')

    def source(**options):
        return Hub(str(tmp_path / "set"), streaming=streaming, parts=4, **options)

    one, two = (corpus(tmp_path / name, source()) for name in ("one", "two"))
    one.prepare(1)
    assert two.prepare(1, node=1, nodes=2) == {}
    assert two.prepare(1, node=0, nodes=2)["splits"]["train"]["documents"] == 40
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert sorted(decoded(one.open())) == sorted(documents())
    assert len(source().units) == (6 if streaming else 8)
    share = corpus(tmp_path / "share", source(validation=0.5))
    assert 5 < share.prepare(1)["splits"]["validation"]["documents"] < 35
    with pytest.raises(SubcloningError, match=r"no column 'content', only \['text', 'other'\]"):
        corpus(tmp_path / "other", source(text="content")).prepare(1)


def test_rows_that_are_less_than_a_document(tmp_path):
    rows = ["", " = One = \n", "", "a\n", " = = Section = = \n", "b\n", " = Two = \n", "c\n", None]
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / "set")
    with pytest.raises(SubcloningError, match="has no splits: give the share to set aside"):
        corpus(tmp_path / "c", Hub(f"{tmp_path}/set")).prepare(1)
    source = Hub(f"{tmp_path}/set", validation=0.0, begins="^ = [^=].*[^=] = $", parts=1)
    assert [piece.text for piece in source.read(source.units[0])] == [
        " = One = \na\n = = Section = = \nb\n",
        " = Two = \nc\n",
    ]


def test_large_vocabularies_take_four_bytes(tmp_path, texts):
    words = {f"w{n}": n for n in range(70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", unk_token="w1")
    fast.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("w69999 w3\n")
    (tmp_path / "b.txt").write_text("w1\n")
    made = Corpus(
        tmp_path / "c", TextFiles([f"{tmp_path}/a.txt"], f"{tmp_path}/b.txt"), Pretrained(f"{tmp_path}/tokenizer")
    )
    assert made.prepare(1)["vocab_size"] == 70_000
    assert np.load(next((tmp_path / "c").glob("train*.npy"))).dtype == np.uint32
    assert made.open().splits["train"].read(0, 3).tolist() == [69_999, 3, 0]


def test_gpt2_files_as_published(tmp_path):
    """vocab.json and merges.txt alone, as OpenAI published them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: n for n, token in enumerate([*alphabet, "ab", END_OF_TEXT])}
    (tmp_path / "bpe").mkdir()
    (tmp_path / "bpe" / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "bpe" / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "a.txt").write_text("abab")
    (tmp_path / "b.txt").write_text("b")
    made = Corpus(tmp_path / "c", TextFiles(f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"), Pretrained(f"{tmp_path}/bpe"))
    assert made.prepare(1)["end_of_text"] == 257
    assert made.open().splits["train"].read(0, 3).tolist() == [256, 256, 257]


def test_stdlib():
    source = Stdlib()
    names = {file.as_posix() for file in source.files}
    assert {"os.py", "asyncio/tasks.py", "json/decoder.py"} <= names
    assert not {"test", "tests", "encodings", "site-packages"} & {part for file in source.files for part in file.parts}
    pieces = list(source.read(0))
    assert len(pieces) == len(names)
    assert sum(len(piece.text) for piece in pieces) > 5_000_000
    assert {piece.split for piece in pieces} == {"train", "validation"}
    assert by_hash("os.py", 0.05) == by_hash("os.py", 0.05)
    assert sum(by_hash(str(n), 0.1) == "validation" for n in range(10_000)) == pytest.approx(1000, rel=0.15)


def test_splits_too_short_for_a_block(texts, prepared):
    options = {"validate_every": 8192, "seed": 0, "validation_tokens": 100, "scoring_tokens": 100}
    tokens = corpus(prepared, files(texts)).open()
    short = len(tokens.splits["validation"])
    with pytest.raises(SubcloningError, match=rf"validation split of .* has {short} tokens, too few"):
        TextData(corpus(prepared, files(texts)), context=4096, batch_tokens=8192, **options)
    with pytest.raises(SubcloningError, match="this split has 1000 tokens, too few for a block"):
        Blocks(TokenStream([(Path("x"), 1000)]), 512, 0)
    with pytest.raises(SubcloningError, match="batch_tokens=100 must be a multiple of context=64"):
        TextData(corpus(prepared, files(texts)), context=64, batch_tokens=100, **options)
