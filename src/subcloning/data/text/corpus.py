"""A corpus as token ids on disk: prepared once by any number of processes, then memory-mapped.

In its folder:

    manifest.json            what the text is, the tokenizer, and of each split the shards with tokens, bytes and sha256
    source.json              of each split's files, if the text was in any: how many, bytes, and a sha256 of them all
    checked.json             what was found by reading files, so that it is not read again while they do not change
    tokenizer/               for `transformers.AutoTokenizer.from_pretrained`
    train-00000-00000.npy    token ids, uint16 or uint32; the first number is the source's unit, the second counts on
    validation-00000-00000.npy

The source's text is cut into chunks, whatever the number of processes, and each chunk becomes one shard of each split.
A chunk is done when its record in parts/ is there, which is written last; so preparation that was stopped at any point
goes on from there. The manifest is written when all chunks are done, and the records are removed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from joblib import Parallel, cpu_count, delayed
from tokenizers import Tokenizer
from tqdm import tqdm

from ...errors import SubcloningError
from ...files import atomic, locked
from ..contents import contents, remembered, sha256
from .sources import Piece
from .tokens import TokenStream

GROUP = 2**21  # characters that are tokenised at a time: an encoding takes far more memory than its ids
SPLITS = ("train", "validation")


class Corpus:
    """The text of `source` (see `sources`) in tokens of `tokenizer` (see `tokenizer`), kept in `folder`.

    shard_mib: text in a shard, in 2^20 characters.
    """

    def __init__(self, folder: str, source, tokenizer, *, shard_mib: float = 16):
        self.folder, self.source, self.tokenizer = Path(folder), source, tokenizer
        self.chunk = int(shard_mib * 2**20)
        description = {"source": source.description, "tokenizer": tokenizer.description, "shard_mib": shard_mib}
        self.description = _as_json(description)

    def prepare(self, processes: int | None = None, node: int = 0, nodes: int = 1) -> dict:
        """Make what is missing, and return the manifest, or {} while other nodes have not finished their share.

        processes: default, all cores. node, nodes: this node takes every so many-th unit of the source.
        """
        if not self._manifest():
            # Each step looks again, since another process may have finished it while this one waited.
            with locked(self.folder / "lock"):
                if not self._manifest():
                    self._begin()
            with locked(self.folder / f"lock-{node}-of-{nodes}"):
                if not self._manifest():
                    self._encode(range(node, len(self.source.units), nodes), processes or cpu_count())
            with locked(self.folder / "lock"):
                if not self._manifest():
                    self._finish()
        manifest = self._manifest()
        if manifest:
            shutil.rmtree(self.folder / "parts", ignore_errors=True)
        return manifest

    def open(self, *, verify: bool = True) -> "Tokens":
        """The prepared corpus. verify: hold all shards against their checksums, once for as long as they are the same.

        Raises if it is of another source or tokenizer. These may be gone; then what the config calls them must agree.
        """
        manifest = self._manifest()
        if not manifest:
            raise SubcloningError(f"{self.folder} holds no prepared corpus: run python -m subcloning.prepare first")
        return Tokens(self.folder, manifest, verify)

    def _manifest(self) -> dict:
        file = self.folder / "manifest.json"
        if not file.exists():
            return {}
        manifest = json.loads(file.read_text())
        self._compare(manifest, self.description)
        if text := self._text():
            source = self.folder / "source.json"
            self._compare({"text": json.loads(source.read_text()) if source.exists() else "not known"}, {"text": text})
        self._compare_tokenizer(manifest["tokenizer_sha256"])
        return manifest

    def _text(self) -> dict:
        """What the source's files hold: `contents` of each split; {} if they are gone, or it has none."""
        memory = self.folder / "checked.json"
        return {split: contents(files, memory, split) for split, files in self.source.paths.items()}

    def _compare_tokenizer(self, found: str) -> None:
        if files := self.tokenizer.files:
            memory = self.folder / "checked.json"
            wanted = remembered(memory, "tokenizer", files, lambda: _digest(self.tokenizer.make()))
            self._compare({"tokenizer's sha256": found}, {"tokenizer's sha256": wanted})

    def _compare(self, found: dict, wanted: dict) -> None:
        for key, value in wanted.items():
            if found[key] != value:
                raise SubcloningError(
                    f"{self.folder} holds another corpus: its {key} is {found[key]}, wanted {value}. Give this one a "
                    "folder of its own, or remove that one"
                )

    def _begin(self) -> None:
        """Claim the folder, and make the tokenizer."""
        claim = self.folder / "parts" / "description.json"
        wanted = _as_json(self.description | {"contents": self.source.contents, "text": self._text()})
        if claim.exists():
            self._compare(json.loads(claim.read_text()), wanted)
        else:
            with atomic(claim) as temporary:
                temporary.write_text(json.dumps(wanted))
        if not (self.folder / "tokenizer").exists():
            made = self.tokenizer.make(p.text for unit in self.source.units for p in self._training(unit))
            if made.eos_token_id is None:
                raise SubcloningError("the tokenizer has no end-of-text token (eos_token), which parts documents")
            with atomic(self.folder / "tokenizer") as temporary:
                made.save_pretrained(temporary)
        self._compare_tokenizer(_sha256_of(_tokenizer(self.folder)))

    def _training(self, unit) -> Iterator[Piece]:
        return (piece for piece in self.source.read(unit) if piece.split == "train")

    def _end_of_text(self) -> int:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "tokenizer").eos_token_id

    def _encode(self, units: range, processes: int) -> None:
        work = Parallel(processes, return_as="generator_unordered", pre_dispatch="n_jobs")
        with tqdm(desc=f"preparing {self.folder}", unit=" characters", unit_scale=True, mininterval=1) as progress:
            for size in work(self._todo(units, progress)):
                progress.update(size)

    def _todo(self, units, progress) -> Iterator:
        """Encoding calls for the chunks that have no record yet."""
        end_of_text = self._end_of_text()
        for done, unit in enumerate(units):
            progress.set_postfix_str(f"{done}/{len(units)} units")
            if self._records(unit)[1]:
                continue
            for number, (pieces, last) in enumerate(_chunks(self.source.read(self.source.units[unit]), self.chunk)):
                name = f"{unit:05d}-{number:05d}"
                if not self._record(name).exists():
                    yield delayed(encode)(self.folder, name, pieces, last, end_of_text)

    def _record(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.json"

    def _records(self, unit: int) -> tuple[list[dict], bool]:
        """The unit's records up to the first that is missing, and whether they are all."""
        records: list[dict] = []
        while (file := self._record(f"{unit:05d}-{len(records):05d}")).exists():
            records.append(json.loads(file.read_text()))
            if records[-1]["last"]:
                return records, True
        return records, False

    def _finish(self) -> None:
        """Write the manifest, if all chunks of all nodes are done."""
        units = [self._records(unit) for unit in range(len(self.source.units))]
        if not all(complete for _, complete in units):
            return
        shards: dict[str, list[dict]] = {split: [] for split in SPLITS}
        for records, _ in units:
            for record in records:
                for split, shard in record["shards"].items():
                    shards[split].append(shard)
        claimed = json.loads((self.folder / "parts" / "description.json").read_text())
        self._compare({"text": claimed["text"]}, {"text": self._text()})
        backend = _tokenizer(self.folder)
        manifest = self.description | {
            "contents": claimed["contents"],
            "tokenizer_sha256": _sha256_of(backend),
            "vocab_size": backend.get_vocab_size(),
            "end_of_text": self._end_of_text(),
            "splits": {
                split: {key: sum(s[key] for s in found) for key in ("tokens", "documents", "characters")}
                | {"shards": found}
                for split, found in shards.items()
            },
        }
        for leftover in self.folder.glob(".*.tmp"):  # of processes that were killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        with atomic(self.folder / "source.json") as temporary:
            temporary.write_text(json.dumps(claimed["text"], indent=1) + "\n")
        with atomic(self.folder / "manifest.json") as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n")


class Tokens:
    """An open corpus: `splits` maps `train` and `validation` to a `TokenStream`; `sha256` is that of its manifest."""

    def __init__(self, folder: Path, manifest: dict, verify: bool):
        self.folder, self.manifest, self.sha256 = folder, manifest, sha256(folder / "manifest.json")
        shards = {folder / shard["file"]: shard for info in manifest["splits"].values() for shard in info["shards"]}
        mend = f"remove {folder} and prepare it again"
        for path, shard in shards.items():
            if not path.exists():
                raise SubcloningError(f"{path} is missing: {mend}")
            if path.stat().st_size != shard["bytes"]:
                raise SubcloningError(f"{path} has {path.stat().st_size} bytes, expected {shard['bytes']}: {mend}")

        def check() -> bool:
            for path, shard in shards.items():
                if sha256(path) != shard["sha256"]:
                    raise SubcloningError(f"{path} is damaged, its sha256 is not the manifest's: {mend}")
            return True

        if verify:
            remembered(folder / "checked.json", "shards", [*shards, folder / "manifest.json"], check)
        self.splits = {
            split: TokenStream([(folder / s["file"], s["tokens"]) for s in info["shards"]])
            for split, info in manifest["splits"].items()
        }


def _chunks(pieces: Iterator[Piece], size: int) -> Iterator[tuple[list[Piece], bool]]:
    """(pieces of at least `size` characters together, whether these are the last)."""
    chunk: list[Piece] = []
    length = 0
    for piece in pieces:
        if length >= size:
            yield chunk, False
            chunk, length = [], 0
        chunk.append(piece)
        length += len(piece.text)
    yield chunk, True


def encode(folder: Path, name: str, pieces: list[Piece], last: bool, end_of_text: int) -> int:
    """Write a chunk's shards and then its record; return its size in characters."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per process
    tokenizer = _tokenizer(folder)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    ids: dict[str, list[np.ndarray]] = {}
    counts: dict[str, dict[str, int]] = {}
    for group, _ in _chunks(iter(pieces), GROUP):
        encodings = tokenizer.encode_batch_fast([piece.text for piece in group], add_special_tokens=False)
        for piece, encoding in zip(group, encodings, strict=True):
            found = ids.setdefault(piece.split, [])
            found.append(np.array(encoding.ids + [end_of_text] * piece.end, dtype))
            count = counts.setdefault(piece.split, {"documents": 0, "characters": 0})
            count["documents"] += piece.end
            count["characters"] += len(piece.text)
    shards = {}
    for split in sorted(ids):
        path = folder / f"{split}-{name}.npy"
        tokens = np.concatenate(ids[split])
        with atomic(path) as temporary:
            with open(temporary, "wb") as file:
                np.save(file, tokens)
            facts = {"tokens": len(tokens), "bytes": temporary.stat().st_size, "sha256": sha256(temporary)}
        shards[split] = {"file": path.name, **counts[split], **facts}
    if (folder / "parts").exists():  # else others have finished: this worker has outlived its killed parent
        with atomic(folder / "parts" / f"{name}.json") as temporary:
            temporary.write_text(json.dumps({"shards": shards, "last": last}))
    return sum(len(piece.text) for piece in pieces)


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer" / "tokenizer.json"
    return _read_tokenizer(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_tokenizer(file: Path, changed: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True  # text that spells a special token is text
    return tokenizer


def _sha256_of(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _digest(made) -> str:
    """`_sha256_of` a tokenizer of transformers, as it would be in a corpus."""
    with TemporaryDirectory() as folder:
        made.save_pretrained(Path(folder) / "tokenizer")
        return _sha256_of(_tokenizer(Path(folder)))


def _as_json(value: dict) -> dict:
    """As it comes back from a file."""
    return json.loads(json.dumps(value))
