"""The source code of installed Python packages, which everybody who has this project's requirements has offline.

python -m subcloning.data.text.packages FILE.csv     what the corpus `data=packages` is made of, package by package
"""

import argparse
import hashlib
import json
import re
import tokenize
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...errors import SubcloningError
from ...files import ROOT, atomic
from .sources import Piece, by_hash

LEFT_OUT = frozenset(("test", "tests", "testing"))  # folders
LONG = 20  # characters, from which on a line says something


class Package(NamedTuple):
    """files: those of its Python files that are kept. copies: how many others are mostly lines of files before."""

    name: str
    version: str
    split: str
    files: list[Path]
    copies: int


class Packages:
    """The Python files, without tests, of the packages that `lock` names and this environment has, a document a file.

    Split by package: a share `validation` of them, by a hash of the name, is never trained on. What is mostly a copy is
    left out: a file of whose different lines of 20 characters or more over half occur in files before it. Those of
    validation come first, so that what training has of them goes from training.

    lock: a requirements file with versions (`name==version`). path: folders with installed packages (default: those of
        this Python).

    Raises SubcloningError where a package is installed at another version than the lock's, or none is.
    """

    def __init__(
        self,
        lock: str = str(ROOT / "requirements.lock"),
        *,
        validation: float = 0.1,
        path: Sequence[str] | None = None,
    ):
        self.lock, self.share, self.path = Path(lock), validation, path
        self.description = {
            "kind": "Python packages",
            "lock": hashlib.sha256(self.lock.read_bytes()).hexdigest() if self.lock.exists() else "not there",
            "split": f"validation: {validation:g} of the packages, by sha256 of the name",
            "copies": f"left out: files of whose lines of {LONG} characters over half occur before",
        }

    @cached_property
    def installed(self) -> list[Distribution]:
        """In the order in which they are read."""
        if not self.lock.exists():
            raise SubcloningError(f"there is no {self.lock}, which a checkout has: give a corpus.source.lock")
        lines = re.findall(r"^([\w.-]+)==([\w.!+-]+)", self.lock.read_text(), re.MULTILINE)
        wanted: dict[str, list[str]] = {}  # of a package several, where it depends on the Python
        for name, version in lines:
            wanted.setdefault(_canonical(name), []).append(version.partition("+")[0])
        found: dict[str, Distribution] = {}
        for distribution in distributions() if self.path is None else distributions(path=[*self.path]):
            name = _canonical(distribution.metadata["Name"])
            if name in wanted and name not in found:  # of several, Python imports the first
                found[name] = distribution
                if distribution.version.partition("+")[0] not in wanted[name]:
                    raise SubcloningError(
                        f"{name} {distribution.version} is installed, {self.lock.name} has {wanted[name][0]}: "
                        "install its versions (make .venv/installed), or give another corpus.source.lock"
                    )
        if not found:
            raise SubcloningError(f"none of the packages in {self.lock} is installed in this environment")
        splits = {name: by_hash(name, self.share) for name in found}
        return [found[name] for name in sorted(found, key=lambda name: (splits[name] == "train", name))]

    @cached_property
    def candidates(self) -> list[Package]:
        """Each package with all its files."""
        found = []
        for distribution in self.installed:
            files = [
                Path(str(distribution.locate_file(file)))
                for file in sorted(distribution.files or [], key=str)
                if file.suffix == ".py" and not (LEFT_OUT | {".."}) & {*file.parts}
            ]
            name = _canonical(distribution.metadata["Name"])
            there = [file for file in files if file.exists()]
            found.append(Package(name, distribution.version, by_hash(name, self.share), there, 0))
        return found

    @cached_property
    def units(self) -> list[Package]:
        """Each package with what is kept of its files."""
        seen: set[int] = set()  # hashes of lines
        found = []
        for package in self.candidates:
            kept, copies = [], 0
            for file in package.files:
                lines = {*map(hash, _lines(_text(file)))}
                if len(lines & seen) > len(lines) / 2:
                    copies += 1
                elif lines:
                    kept.append(file)
                    seen |= lines
            if kept:
                found.append(package._replace(files=kept, copies=copies))
        return found

    @property
    def paths(self) -> dict[str, list[Path]]:
        """Of all files, since it follows from them which are kept; {} where packages are gone or others."""
        try:
            return _by_split(self.candidates)
        except SubcloningError:
            return {}

    @property
    def contents(self) -> dict:
        versions = {package.name: package.version for package in self.units}
        left = {"files_left_out": sum(package.copies for package in self.units)}
        return {"packages": versions, "overlap": self.overlap, **left}

    @cached_property
    def overlap(self) -> dict[str, float]:
        """Shares of what different lines validation has, and runs of three of them, that occur in training, too."""
        kept = _by_split(self.units)
        parts = {split: [[*map(hash, _lines(_text(file)))] for file in files] for split, files in kept.items() if files}
        if len(parts) < 2:
            raise SubcloningError(
                f"all {len(self.units)} packages are of {[*parts]}: give corpus.source.validation, the share set aside"
            )

        def common(length: int) -> float:
            train, validation = (
                {run for lines in parts[split] for run in zip(*(lines[i:] for i in range(length)), strict=False)}
                for split in ("train", "validation")
            )
            return round(len(train & validation) / max(1, len(validation)), 4)

        return {"lines": common(1), "three_lines": common(3)}

    def read(self, unit: Package) -> Iterator[Piece]:
        for file in unit.files:
            yield Piece(_text(file), unit.split)

    def table(self) -> pd.DataFrame:
        """A row for each package: name, version, split, files, bytes, copies left out, sha256 of what is kept."""
        rows = []
        for package in self.units:
            whole = hashlib.sha256()
            for file in package.files:
                whole.update(file.read_bytes())
            size = sum(file.stat().st_size for file in package.files)
            cells = {"files": len(package.files), "bytes": size, "copies": package.copies}
            rows.append({**package._asdict(), **cells, "sha256": whole.hexdigest()})
        return pd.DataFrame(rows)


def _by_split(packages: Sequence[Package]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {"train": [], "validation": []}
    for package in packages:
        found[package.split] += package.files
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(file: Path) -> str:
    try:
        with tokenize.open(file) as opened:  # knows about coding comments
            return opened.read()
    except (SyntaxError, UnicodeDecodeError):  # not Python source, whatever its name
        return ""


def _lines(text: str) -> list[str]:
    """The lines that say something, in their order."""
    return [line for line in map(str.strip, text.splitlines()) if len(line) >= LONG]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    source = Packages()
    with atomic(args.file) as temporary:
        source.table().to_csv(temporary, index=False)
    print(json.dumps({"overlap": source.overlap}))


if __name__ == "__main__":
    main()
