"""Files that are either there whole or not at all, and the one format in which scores and plans are kept."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import SubcloningError

ROOT = Path(__file__).parents[2]  # the checkout, which has configs/ and experiments/


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or folder; rename it on success, remove it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


@contextmanager
def locked(file: str | os.PathLike) -> Iterator[None]:
    """Wait until no other process is within `locked` of the same file; it and its folder are made if need be.

    Where a file system has no locks, nobody waits, and the queue alone keeps jobs apart.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, fallback_to_soft=False)  # a soft lock would outlive kill -9
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(blocking=False))
        except Timeout:
            print(f"another process is at work in {file.parent}: waiting for its end", flush=True)
            held.enter_context(lock)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def save_tensors(path: str | os.PathLike, kind: str, header: dict, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file whose metadata holds `header` as JSON under the name `kind`."""
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={kind: json.dumps(header)})


def load_tensors(path: str | os.PathLike, kind: str, hints: dict[str, Any]) -> tuple[dict, dict[str, Tensor]]:
    """(header, tensors) of a file written by `save_tensors` with the same `kind`; hints: the types of its header."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            # Cloned, since they lie in the file at addresses for which matrix products may take another kernel.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SubcloningError(f"{path} is damaged or not a safetensors file ({error}): make it again") from error
    if kind not in header:
        raise SubcloningError(f"{path} holds no {kind}, only {sorted(header) or 'tensors'}")
    try:
        found = json.loads(header[kind])
    except (ValueError, RecursionError):
        found = None
    whole = isinstance(found, dict) and found.keys() == hints.keys()
    if not whole or not all(fits(found[name], hint) for name, hint in hints.items()):
        raise SubcloningError(f"{path} is damaged, or of another version: make it again")
    return found, tensors


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, as JSON has it, is of type `hint`: of plain types, lists, tuples (lists in JSON) and dicts."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(x, arguments[0]) for x in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin is dict:
        return isinstance(value, dict) and all(fits(x, arguments[1]) for x in value.values())
    if arguments:  # A | B
        return any(fits(value, one) for one in arguments)
    return type(value) is hint or (hint is float and type(value) is int) or (hint is type(None) and value is None)
