"""Parents from the Hub, which a cache made up here stands for: their commit is recorded, and held to."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from tiny import gpt2

from subcloning.training.classification import TimmParent
from subcloning.training.language import LanguageParent

COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(repository, save) puts what save(folder, number) writes there, as two commits; `main` is the second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def make(repository, save):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMITS[1])
        for number, commit in enumerate(COMMITS):
            save(folder / "snapshots" / commit, number)

    return make


def test_gpt2(cache):
    def save(folder: Path, number: int) -> None:
        gpt2(depth=1, seed=number).save_pretrained(folder)

    cache("someone/tiny", save)
    parents = [
        LanguageParent("x", {}, {"name": "someone/tiny", "revision": revision}) for revision in (None, COMMITS[0])
    ]
    found = [parent.contents() for parent in parents]
    assert found == [{"hub": "someone/tiny", "commit": commit} for commit in reversed(COMMITS)]
    parents[0].hold(found[1])
    first, again = (parent.trained().state_dict() for parent in parents)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_timm(cache):
    name, size = "vit_tiny_patch16_224", {"embed_dim": 24, "depth": 1, "num_heads": 2}

    def published(number: int) -> torch.nn.Module:
        torch.manual_seed(number)
        return timm.create_model(name, num_classes=5, **size)

    def save(folder: Path, number: int) -> None:
        save_for_hf(published(number), folder, safe_serialization=True)

    cache("someone/tiny-vit", save)
    overlay = {"hf_hub_id": "someone/tiny-vit", "num_classes": 5, "classifier": "head"}
    weights = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    parent, other = (TimmParent("x", {"model_name": name, "num_classes": 5, **size}, weights) for _ in range(2))
    newest = parent.contents()
    assert newest == {"hub": "someone/tiny-vit", "commit": COMMITS[1]}
    parent.hold({**newest, "commit": COMMITS[0]})
    assert parent.contents()["commit"] == COMMITS[0]
    for found, number in ((parent, 0), (other, 1)):
        wanted = published(number).state_dict()
        assert all(torch.equal(wanted[key], value) for key, value in found.trained().state_dict().items())
