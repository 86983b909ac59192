"""Imports run one way: errors, files -> method -> data -> training -> analysis -> programs, without a circle."""

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import CONFIGS

import subcloning

ROOT = Path(subcloning.__file__).parent
ORDER = ("ground", "method", "data", "training", "analysis", "program")
Imports = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of all modules of the package at `root`."""
    files = {".".join(file.relative_to(root.parent).with_suffix("").parts): file for file in root.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in files.items()}


def imports(root: Path) -> Imports:
    """Module -> those of the package that it imports, wherever in its code."""
    known = modules(root)

    def names(module: str, file: Path) -> Iterable[str]:
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                # What is imported from a package is a module of it, or a name in its __init__.
                for name in (f"{base}.{alias.name}" for alias in node.names):
                    yield name if name in known else base

    return {name: {found for found in names(name, file) if found in known} for name, file in known.items()}


def room(module: str) -> str:
    """The part of the package that `module` belongs to: its folder; what lies at the top is a room of its own."""
    parts = module.split(".")
    if module in ("subcloning.errors", "subcloning.files"):
        return "ground"
    if len(parts) == 1:
        return "front"  # subcloning itself: what `import subcloning` offers
    return parts[1] if (ROOT / parts[1]).is_dir() and parts[-1] != "__main__" else module


def level(module: str) -> int:
    return ORDER.index(room(module)) if room(module) in ORDER else ORDER.index("program")


def faults(found: Imports) -> list[str]:
    """What is wrong with these imports, each named."""
    wrong = [f"a circle: {' -> '.join(circle)}" for graph in (found, rooms(found)) if (circle := first_circle(graph))]
    for module, others in sorted(found.items()):
        for other in sorted(others):
            if room(module) == "front":
                if room(other) not in ("ground", "method"):
                    wrong.append(f"{module} imports {other}: only the method is free of heavy libraries")
            elif room(other) == "front":
                wrong.append(f"{module} imports {other}: import from where it is defined")
            elif level(other) > level(module):
                wrong.append(f"{module} imports {other}: upward")
    return wrong


def rooms(found: Imports) -> Imports:
    """The same by rooms."""
    graph: Imports = {}
    for module, others in found.items():
        graph.setdefault(room(module), set()).update(room(other) for other in others if room(other) != room(module))
    return graph


def first_circle(graph: Imports) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][:0:-1]
        first = circle.index(min(circle))
        return [*circle[first:], *circle[: first + 1]]
    return []


def test_imports_run_one_way():
    assert faults(imports(ROOT)) == []


def test_data_configs_name_no_training():
    upward = [file.name for file in Path(CONFIGS, "data").glob("*.yaml") if "subcloning.training" in file.read_text()]
    assert upward == []


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("method/plan.py", "from ..data import batches", "method.plan imports subcloning.data.batches: upward"),
        ("data/batches.py", "def f():\n import subcloning.train", "data.batches imports subcloning.train: upward"),
        ("__init__.py", "from .training import run", "subcloning imports subcloning.training.run: only the method"),
        ("method/plan.py", "from . import scores", "circle: subcloning.method.plan -> subcloning.method.scores -> "),
        ("train.py", "from . import sync", "circle: subcloning.sync -> subcloning.train -> subcloning.sync"),
        ("method/plan.py", "from .. import subclone", "subcloning.method.plan imports subcloning: import from where"),
    ],
)
def test_what_runs_otherwise_is_named(tmp_path, module, code, said):
    """In a package of the same rooms, with one import that is wrong."""
    package = tmp_path / "subcloning"
    files = {"method/scores.py": "from . import plan", "data/batches.py": "", "training/run.py": "", "train.py": ""}
    inits = {f"{folder}/__init__.py": "" for folder in ("method", "data", "training")}
    rest = {"__init__.py": "", "sync.py": "from . import train", "method/plan.py": "", module: code}
    for name, text in (files | inits | rest).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert any(said in fault for fault in faults(imports(package)))
