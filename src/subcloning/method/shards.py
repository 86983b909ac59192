"""Checkpoints that are larger than memory: read from safetensors files tensor by tensor, and written file by file.

A tensor that is read is mapped from its file, and no longer than it is used; a child is held one file at a time. So at
once there are in memory one parent tensor, in float32 where it is rotated, and `SHARD` bytes of the child.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SubcloningError
from .anatomy import Anatomy
from .matching import source_name
from .plan import Plan
from .surgery import Cut, check_shapes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 1_000_000_000  # bytes of a file of the child


class Shards(Mapping[str, Tensor]):
    """Name -> tensor of a folder with model.safetensors, or with an index and the files that it names.

    Raises SubcloningError where a file is missing or damaged, where index and files do not agree, where both forms are
    there, and, at a tensor, where its file is no longer the one that was there at first.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.files: dict[str, str] = {}  # tensor -> file
        self.stamps: dict[str, tuple] = {}  # file -> size and time, as first seen
        whole, index = ((self.folder / name).exists() for name in (WEIGHTS, INDEX))
        if whole == index:
            what = f"both {WEIGHTS} and {INDEX}: remove the one that does not belong there" if whole else "neither"
            raise SubcloningError(f"{self.folder}: expected {WEIGHTS}, or {INDEX} with its files; it has {what}")
        named = self._index() if index else None
        for file in sorted(set(named.values())) if named else [WEIGHTS]:
            for name in self._names(file):
                if name in self.files:
                    raise SubcloningError(f"{self.folder}: {name} is both in {self.files[name]} and in {file}")
                self.files[name] = file
        for name, file in (named or {}).items():
            if self.files.get(name) != file:
                raise SubcloningError(
                    f"{self.folder}: by the index {name} is in {file}, which does not have it: download it again"
                )

    def _index(self) -> dict[str, str]:
        try:
            named = json.loads((self.folder / INDEX).read_text())["weight_map"]
            if not named or not all(isinstance(file, str) and Path(file).name == file for file in named.values()):
                raise ValueError("no map from tensors to files of this folder")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SubcloningError(f"{self.folder / INDEX} is damaged ({error}): download it again") from error
        return named

    def _names(self, file: str) -> list[str]:
        if not (self.folder / file).is_file():
            raise SubcloningError(f"{self.folder} has no {file}, which its index names: download it again")
        self.stamps[file] = self._stamp(file)
        with self._opened(file) as opened:
            return [*opened.keys()]

    def _stamp(self, file: str) -> tuple:
        there = (self.folder / file).stat()
        return there.st_size, there.st_mtime_ns, there.st_ino

    def _opened(self, file: str) -> Any:
        try:
            if self._stamp(file) != self.stamps[file]:
                raise SubcloningError(f"{self.folder / file} was changed while it was read: begin again")
            return safe_open(self.folder / file, "pt")
        except (SafetensorError, OSError) as error:
            raise SubcloningError(f"{self.folder / file} is damaged or not whole ({error})") from error

    def __getitem__(self, name: str) -> Tensor:
        with self._opened(self.files[name]) as opened:
            return opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def anatomy(self, model: Any) -> Anatomy:
        """Of a `model` on the meta device, whose values these are. Raises SubcloningError where they are not its."""
        anatomy = Anatomy(model, self)
        passed = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()  # of transformers
        unknown = [n for n in self if n not in anatomy.aliases and not any(re.search(word, n) for word in passed)]
        missing = [name for name in anatomy.tensors if name not in self.files]
        for what, names in (("lacks", missing), ("has, unknown to the model,", unknown)):
            if names:
                raise SubcloningError(
                    f"{self.folder} {what} {names[0]}, and {len(names) - 1} more: only checkpoints whose names are "
                    "those of the model can be read tensor by tensor. Load it with its library, and save it again"
                )
        for name, tensor in anatomy.tensors.items():
            with self._opened(self.files[name]) as opened:
                found = opened.get_slice(name)
                shape, dtype = tuple(found.get_shape()), found.get_dtype()
            if shape != tuple(tensor.shape) or dtype not in ("F64", "F32", "F16", "BF16"):
                raise SubcloningError(
                    f"{self.folder}: {name} is {dtype} {shape}, expected numbers in float16, bfloat16, float32 or "
                    f"float64 of shape {tuple(tensor.shape)}: load an unquantised checkpoint of this model"
                )
        return anatomy


@torch.no_grad()
def write_child(
    plan: Plan,
    parent: Anatomy,
    child: Anatomy,
    folder: str | os.PathLike,
    *,
    scale: bool = True,
    scale_tied: bool = True,
    shard: int = SHARD,
) -> Iterator[tuple[int, int]]:
    """Write what `apply_plan` would make of `child`, which is on the meta device, as safetensors files to `folder`.

    parent: see `Shards.anatomy`. Each tensor keeps its parent's dtype. shard: bytes of one file; a larger tensor has
    one to itself. Yields (tensors written, all of them). The index comes last: without it a folder of several files is
    no checkpoint.
    """
    if plan.fresh:
        raise SubcloningError(
            f"{plan.fresh[0]} is to keep the child's own initial values, and a child that is written tensor by tensor "
            "has none: make it in memory"
        )
    check_shapes(plan, parent, child)
    cut, folder = Cut(plan, parent, child, scale, scale_tied), Path(folder)
    solved = {f"{norm}.bias": norm for norm in cut.solved}

    def made(name: str) -> Tensor:
        dtype = parent[source_name(child, name, plan.blocks)].dtype
        target = torch.empty(child.tensors[name].shape, dtype=dtype)
        if name in solved:
            return target.copy_(cut.bias(solved[name], made))
        cut.write(name, target)
        return target

    files: list[list[str]] = [[]]
    room = shard
    for name, tensor in child.tensors.items():
        size = tensor.numel() * parent[source_name(child, name, plan.blocks)].element_size()
        if size > room and files[-1]:
            files.append([])
            room = shard
        files[-1].append(name)
        room -= size
    where: dict[str, str] = {}
    done = total = 0
    for number, names in enumerate(files, 1):
        file = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        held = {}
        for name in names:
            held[name] = made(name)
            done += 1
            yield done, len(child.tensors)
        total += sum(tensor.nbytes for tensor in held.values())
        save_file(held, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2))
