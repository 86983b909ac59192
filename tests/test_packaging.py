"""One set of pins, one version, and words that name what is there: links, make's targets, and the README's code."""

import re
import tomllib
from pathlib import Path

import pytest
import timm
import torch
import yaml
from packaging.requirements import Requirement
from tiny import gpt2

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [
    dependency
    for dependency in map(Requirement, PROJECT["dependencies"] + EXTRAS["experiments"] + EXTRAS["dev"])
    if dependency.name != PROJECT["name"]  # an extra that takes in another
]
PROSE = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("experiments/*/README.md")]
# For conda's Python: a package may be pinned once per Python version.
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.9"}


def lock():
    lines = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    return {line.name: str(line.specifier) for line in lines if not line.marker or line.marker.evaluate(PYTHON)}


def test_every_dependency_is_pinned_exactly():
    assert "://" not in (ROOT / "requirements.lock").read_text()
    pins = lock()
    assert all(re.fullmatch(r"==[\w.]+", pin) for pin in pins.values())
    for dependency in DEPENDENCIES:
        assert dependency.specifier.contains(pins[dependency.name].removeprefix("==")), dependency


def test_environment_has_the_same_pins():
    *_, conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    constraint, *pins, package = conda["pip"]
    assert (constraint, package) == ("-c requirements.lock", "-e .")
    listed = {Requirement(pin).name: str(Requirement(pin).specifier) for pin in pins}
    assert listed == {dependency.name: lock()[dependency.name] for dependency in DEPENDENCIES}


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (version, date), *_ = re.findall(r"^## (\S+) - (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert version == cited["version"] == PROJECT["version"]
    assert date == str(cited["date-released"])


def test_commands_of_make_are_there():
    """Those that the prose and the workflow give."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    said = re.compile(r"(?:`|^ *|run: )make ([a-z][\w-]*)", flags=re.MULTILINE)
    for file in (*PROSE, ROOT / ".ci/run", ROOT / ".github/workflows/test.yml"):
        named = set(said.findall(file.read_text()))
        assert named <= targets, (file.name, named - targets)
        assert named or file.suffix == ".md"


@pytest.mark.parametrize("file", PROSE, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file):
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", file.read_text())
    missing = [link for link in links if not (file.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("file", PROSE, ids=lambda file: str(file.relative_to(ROOT)))
def test_programs_are_there(file):
    for name in re.findall(r"python -m (subcloning\.[\w.]*\w)", file.read_text()):
        path = ROOT / "src" / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def readme_code():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_code(tmp_path, monkeypatch):
    """As it stands, but for what must be downloaded: the ViT has random weights, the GPT-2 files are made here."""
    monkeypatch.chdir(tmp_path)
    gpt2().save_pretrained("gpt2-large")
    gpt2(heads=2, depth=2).config.save_pretrained("gpt2-medium")
    first, gpt2_child, steps = (
        code.replace('"vit_base_patch16_224", pretrained=True', '"vit_base_patch16_224"') for code in readme_code()
    )
    assert len([line for line in first.splitlines() if line]) == 5  # a newcomer's way to a child
    space = {"images": torch.randn(2, 3, 224, 224), "token_ids": torch.randint(37, (2, 10))}
    kept = 'timm.models.save_for_hf(child, "vit", safe_serialization=True)\n'
    kept += 'again = timm.create_model("local-dir:vit", pretrained=True)\n'
    for code in (first + kept, gpt2_child):
        exec(code, space)
        parent, child, again = space["parent"], space["child"], space["again"]
        assert sum(p.numel() for p in child.parameters()) < sum(p.numel() for p in parent.parameters())
        for (name, value), same in zip(child.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(value, same), name
    space["parent"] = timm.create_model("vit_base_patch16_224", depth=2)
    space["child"] = timm.create_model("vit_base_patch16_224", depth=2, embed_dim=384, num_heads=6)
    exec(steps, space)
    kept = space["plan"].maps["residual"]
    assert torch.equal(space["child"].cls_token, space["parent"].cls_token[..., kept])
