"""What files hold, told by a hash of it: they are read once, and again only when a size or a time has changed."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from ..files import atomic, locked


def contents(files: Sequence[Path], memory: Path, kind: str = "files") -> dict:
    """{"files", "bytes", "sha256"}: the hash is of names, below the folder that all are in, and contents, in order.

    memory, kind: see `remembered`.
    """

    def read() -> dict:
        root = os.path.commonpath([file.parent for file in files])
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            digests = pool.map(sha256, files)
            lines = [f"{found}  {os.path.relpath(file, root)}\n" for found, file in zip(digests, files, strict=True)]
        size = sum(file.stat().st_size for file in files)
        return {"files": len(files), "bytes": size, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}

    return remembered(memory, kind, files, read)


def remembered(memory: Path, kind: str, files: Sequence[Path], find: Callable):
    """`find()`, a value for JSON; or what it gave before, while the files have the same sizes and times.

    memory: a JSON file for what was found, by `kind`. Of several processes one finds it, and the others wait; where
    `memory` cannot be written, each does.
    """
    state = hashlib.sha256()
    for file in files:
        facts = file.stat()
        # The time of the change of the inode is new even where a copy has kept the time of the last writing.
        state.update(f"{file.absolute()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n".encode())

    def read() -> dict:
        return json.loads(memory.read_text()) if memory.exists() else {}

    if (memo := read().get(kind, {})).get("state") != state.hexdigest():
        writable = os.access(memory.parent, os.W_OK)
        with locked(memory.with_suffix(".lock")) if writable else nullcontext():
            if (memo := read().get(kind, {})).get("state") != state.hexdigest():  # none has found it meanwhile
                memo = {"state": state.hexdigest(), "found": find()}
                if writable:
                    with atomic(memory) as temporary:
                        temporary.write_text(json.dumps(read() | {kind: memo}, indent=1) + "\n")
    return memo["found"]


def sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_place(path: str) -> bool:
    """Whether `path` is a file or folder, there or gone, and not a name on the Hub."""
    return Path(path).expanduser().exists() or path.startswith(("/", ".", "~")) or path.count("/") > 1


def below(path: str) -> list[Path]:
    """All files of the folder `path`, in order; the file that it is; or none, if it is not there."""
    root = Path(path).expanduser()
    return [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
