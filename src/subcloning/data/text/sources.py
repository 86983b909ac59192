"""Where text comes from: Python's standard library, text files, or a set of the `datasets` library.

A source has a `description`, what was asked for; `contents`, what was found; `paths`, the files of each split that hold
the text, {} if they are gone or there are none; and `units`, parts that can be read apart from each other, and so by
different nodes. `read(unit)` yields the unit's text in pieces, always the same ones. Once a corpus is prepared its
source may be gone; but where it is there, `paths` must hold the same.
"""

import glob
import hashlib
import json
import os
import platform
import re
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import fsspec

from ...errors import SubcloningError
from ..contents import below, is_place

PIECE = 2**20  # characters, about, of a long document that are handed on at a time
BY_TEXT = f"by sha256 of their first {PIECE:,} characters"
UNIT = 2**26  # bytes of files, about, that make one unit


class Piece(NamedTuple):
    """Some text of a document, its split (`train` or `validation`), and whether the document ends here."""

    text: str
    split: str
    end: bool = True


def by_hash(key: str, validation: float) -> str:
    """The split of the document that is known by `key`: `validation` for that share of all keys.

    key: what is known when its first piece is read, and tells documents apart: its path, or its text up to `PIECE`
    characters. So copies of a document are in one split, and documents that only begin alike are not.
    """
    return "validation" if int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) < validation * 2**32 else "train"


class Stdlib:
    """The source code of this Python's standard library without tests, encodings and pydoc's topics, a document a file.

    Split by a hash of the file's path, so that a module is in the same split in every version of Python.
    """

    LEFT_OUT = frozenset(
        ("test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "_bundled")
    )

    def __init__(self, validation: float = 0.05):
        self.root, self.validation = Path(sysconfig.get_path("stdlib")), validation
        self.description = {
            "kind": "Python standard library",
            "python": platform.python_version(),
            "split": f"validation: {validation:g} of the files, by sha256 of the path",
        }
        self.units = (0,)

    @cached_property
    def files(self) -> list[Path]:
        files = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = set(folders) - self.LEFT_OUT
            files += [(Path(folder) / name).relative_to(self.root) for name in names if name.endswith(".py")]
        # _sysconfigdata and config-* hold paths of the machine that Python was built on.
        built = ("_sysconfigdata", "config-")
        return sorted(file for file in files if not file.parts[0].startswith(built))

    @property
    def paths(self) -> dict[str, list[Path]]:
        return {"all": [self.root / file for file in self.files]} if self.files else {}

    @property
    def contents(self) -> dict:
        if not self.files:
            raise SubcloningError(f"no source files in {self.root}: this Python comes without its standard library's")
        return {"files": len(self.files), "bytes": sum((self.root / file).stat().st_size for file in self.files)}

    def read(self, unit: int) -> Iterator[Piece]:
        for file in self.files:
            with tokenize.open(self.root / file) as opened:  # knows about coding comments
                yield Piece(opened.read(), by_hash(file.as_posix(), self.validation))


class TextFiles:
    """UTF-8 files by glob: .txt, a whole file or the text between `separator` lines; .jsonl, one document per line.

    Both may be compressed (.gz, .xz, .bz2, .zst). train, validation: globs (`**` for any depth), or lists of them.
    Without `validation` the share `validation_share` of the documents is set aside, by a hash of each (`by_hash`).
    separator: a line, "" for an empty one, that ends a document in .txt files; None: the end of the file does.
    text: the key in .jsonl.
    """

    def __init__(
        self,
        train: str | Sequence[str],
        validation: str | Sequence[str] | None = None,
        *,
        validation_share: float = 0.01,
        separator: str | None = None,
        text: str = "text",
    ):
        self.separator, self.text, self.share = separator, text, validation_share
        given = {"validation": validation, "train": train}
        self.patterns = {
            split: [patterns] if isinstance(patterns, str) else list(patterns)
            for split, patterns in given.items()
            if patterns is not None
        }
        self.description = {
            "kind": "text files",
            **{split: [Path(pattern).name for pattern in patterns] for split, patterns in self.patterns.items()},
            "separator": separator,
            "text": text,
            "split": "by file" if validation else f"validation: {validation_share:g} of the documents, {BY_TEXT}",
        }

    @cached_property
    def files(self) -> dict[str, list[str]]:
        files = {split: self._find(patterns) for split, patterns in self.patterns.items()}
        if both := set(files["train"]) & set(files.get("validation", ())):
            raise SubcloningError(f"{min(both)} is in both train and validation: choose globs that do not overlap")
        return files

    @cached_property
    def units(self) -> list[tuple[list[str], str]]:
        return [(group, split) for split, files in self.files.items() for group in _grouped(files)]

    @property
    def paths(self) -> dict[str, list[Path]]:
        there = any(self._matches(pattern) for patterns in self.patterns.values() for pattern in patterns)
        return {split: [Path(file) for file in files] for split, files in self.files.items()} if there else {}

    @property
    def contents(self) -> dict:
        """Names and sizes."""
        return {split: [[Path(f).name, os.path.getsize(f)] for f in files] for split, files in self.files.items()}

    @staticmethod
    def _matches(pattern: str) -> list[str]:
        return sorted(glob.glob(os.path.expanduser(pattern), recursive=True))

    def _find(self, patterns: Sequence[str]) -> list[str]:
        found = []
        for pattern in patterns:
            if not (matches := self._matches(pattern)):
                raise SubcloningError(f"no file matches {pattern!r} (from {os.getcwd()}): check the glob")
            found += [match for match in matches if match not in found]
        if unknown := [file for file in found if not {".txt", ".jsonl"} & set(Path(file).suffixes)]:
            raise SubcloningError(f"{unknown[0]}: expected .txt or .jsonl, as they are or as .gz, .xz, .bz2 or .zst")
        return found

    def read(self, unit: tuple[list[str], str]) -> Iterator[Piece]:
        files, split = unit
        for file in files:
            documents = self._jsonl if ".jsonl" in Path(file).suffixes else self._txt
            begins, own = True, split
            try:
                with fsspec.open(file, "rt", compression="infer", encoding="utf-8") as lines:
                    for text, end in documents(lines):
                        if begins and "validation" not in self.files:
                            own = by_hash(text[:PIECE], self.share)
                        yield Piece(text, own, end)
                        begins = end
            except Exception as error:  # each compression has errors of its own
                raise SubcloningError(f"{file} is damaged, or not text of the expected kind: {error!r}") from error

    def _jsonl(self, lines) -> Iterator[tuple[str, bool]]:
        for line in lines:
            if line.strip():
                yield json.loads(line)[self.text], True

    def _txt(self, lines) -> Iterator[tuple[str, bool]]:
        """Pieces of about `PIECE` characters of long documents; short ones whole."""
        held: list[str] = []
        length = 0
        for line in lines:
            ends = self.separator is not None and line.rstrip("\n") == self.separator
            if ends or length >= PIECE:
                if length:
                    yield "".join(held), ends
                held, length = [], 0
            if not ends:
                held.append(line)
                length += len(line)
        if length:
            yield "".join(held), True


def _grouped(files: Sequence[str]) -> Iterator[list[str]]:
    """Runs of files of `UNIT` bytes or more together, so that many small ones do not make as many shards."""
    group, size = [], 0
    for file in files:
        group.append(file)
        size += os.path.getsize(file)
        if size >= UNIT:
            yield group
            group, size = [], 0
    if group:
        yield group


class Hub:
    """A text set of the `datasets` library, by name on the Hub or by a local path (`save_to_disk`, or Parquet files).

    revision: a commit of the Hub's repository; give it, so that the text cannot change. validation: the name of that
    split, or the share of documents to set aside. begins: a regular expression for rows that begin a document, where a
    row is less than one; by default each row is a document. streaming: decode while downloading, and keep no copy of
    the source. parts: into how many units a map-style set is cut; a streamed one has as many as it has files.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        *,
        revision: str | None = None,
        train: str = "train",
        validation: str | float = "validation",
        text: str = "text",
        begins: str | None = None,
        streaming: bool = False,
        parts: int = 64,
    ):
        self.path, self.args = path, {"path": path, "name": name, "revision": revision}
        self.text, self.begins = text, re.compile(begins) if begins else None
        self.streaming, self.parts = streaming, parts
        self.share = validation if isinstance(validation, float) else None
        self.splits = {"train": train} if isinstance(validation, float) else {"validation": validation, "train": train}
        split = "the set's own" if self.share is None else f"validation: {self.share} of the documents, {BY_TEXT}"
        name_of = Path(path).name if is_place(path) else path
        self.description: dict[str, object] = {"kind": "datasets", **self.args, "path": name_of}
        self.description |= {"splits": self.splits, "split": split, "text": text, "begins": begins}

    @cached_property
    def sets(self) -> dict:
        sets = {split: self._load(name) for split, name in self.splits.items()}
        for data in sets.values():
            if data.column_names and self.text not in data.column_names:
                raise SubcloningError(
                    f"{self.path} has no column {self.text!r}, only {data.column_names}: set text=..."
                )
        return sets

    @cached_property
    def units(self) -> list[tuple[str, int]]:
        return [(split, shard) for split, data in self.sets.items() for shard in range(data.num_shards)]

    @property
    def paths(self) -> dict[str, list[Path]]:
        files = below(self.path) if is_place(self.path) else []
        return {"all": files} if files else {}

    @property
    def contents(self) -> dict:
        """How many shards; and of a set on the Hub, the commit."""
        from datasets import load_dataset_builder

        found = {"shards": {split: data.num_shards for split, data in self.sets.items()}}
        if not is_place(self.path):
            found["commit"] = load_dataset_builder(**self.args).hash
        return found

    def _load(self, split: str):
        import datasets

        path = Path(self.path)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            data = datasets.load_from_disk(path)
            if not isinstance(data, dict) and self.share is None:
                raise SubcloningError(f"{path} has no splits: give the share to set aside, such as validation=0.01")
            data = data[split] if isinstance(data, dict) else data
        else:
            data = datasets.load_dataset(**self.args, split=split, streaming=self.streaming)
        if isinstance(data, datasets.IterableDataset):
            return data
        return data.to_iterable_dataset(num_shards=max(1, min(self.parts, len(data))))

    def read(self, unit: tuple[str, int]) -> Iterator[Piece]:
        split, number = unit
        data = self.sets[split]
        rows = data.shard(num_shards=data.num_shards, index=number)  # picks a file before anything is decoded
        for text in self._documents(row[self.text] for row in rows):
            yield Piece(text, split if self.share is None else by_hash(text[:PIECE], self.share))

    def _documents(self, rows: Iterator[str | None]) -> Iterator[str]:
        held: list[str] = []
        for text in filter(None, rows):
            if held and (self.begins is None or self.begins.search(text)):
                yield "".join(held)
                held = []
            held.append(text)
        if held:
            yield "".join(held)
