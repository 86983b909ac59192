"""The wheel, installed alone: with what it says that it requires, and nothing else, it subclones."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel and links to the packages that it requires, for `sys.path`."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(source / built.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(site)
    (metadata,) = site.glob("*.dist-info")
    for name in required(PathDistribution(metadata)):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(found.locate_file(part))
    return site


def required(package, extras=("",)):
    """Names of all that is installed with `package`."""
    names = set()
    waiting = [(package, extras)]
    while waiting:
        package, extras = waiting.pop()
        for line in map(Requirement, package.requires or []):
            if line.marker and not any(line.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            key = (line.name, *sorted(line.extras))
            if key not in names:
                names.add(key)
                try:
                    waiting.append((distribution(line.name), ("", *line.extras)))
                except PackageNotFoundError:  # this build of PyTorch does without
                    names.remove(key)
    return {name for name, *_ in names}


def python(site, command, folder):
    """Run Python with `site` in place of its own packages."""
    begin = f"import runpy, sys; sys.path[:0] = [{str(site)!r}, {str(Path(__file__).parent)!r}]; "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", begin + command], cwd=folder, capture_output=True, text=True
    )


def test_it_subclones_alone(installed, tmp_path):
    done = python(installed, "import alone", tmp_path)
    assert done.returncode == 0, done.stderr
    place, modules = done.stdout.splitlines()
    assert place == str(installed / "subcloning" / "__init__.py")
    assert not {"timm", "transformers", "pytorch_lightning", "hydra", "pandas"} & {*modules.split()}


def test_programs_need_the_extra(installed, tmp_path):
    done = python(installed, "runpy.run_module('subcloning.train', run_name='__main__')", tmp_path)
    assert "ModuleNotFoundError: No module named" in done.stderr


def test_it_requires_little_and_is_typed(installed):
    (metadata,) = installed.glob("subcloning-*.dist-info")
    lines = [Requirement(line) for line in PathDistribution(metadata).requires]
    assert {line.name for line in lines if not line.marker} == {"torch", "einops", "safetensors", "numpy", "filelock"}
    assert (installed / "subcloning" / "py.typed").exists()
