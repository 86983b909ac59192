"""Shared fixtures: composed configs, callbacks that take part in runs, and checkpoints as a library saves them."""

import os
from contextlib import contextmanager

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from tiny import TEXT, save_tokenizer

from subcloning import resolvers  # noqa: F401  (for what the configs look up)

CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tests' models are far too small for more, and a run's last bits depend on it."""
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """config("experiment=digits", ...) composes as the command line does; runs go to a temporary folder."""
    monkeypatch.setenv("SUBCLONING_RUNS", str(tmp_path / "runs"))
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        yield lambda *overrides: compose("train", overrides=list(overrides))


@pytest.fixture
def during(monkeypatch):
    """`with during(callback): run(cfg)` lets a callback take part in the run."""
    from subcloning.training import run as run_module

    build = run_module._trainer

    @contextmanager
    def within(callback):
        def build_with(*args):
            trainer = build(*args)
            trainer.callbacks.insert(0, callback)
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "_trainer", build_with)
            yield

    return within


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(model) saves it with a tokenizer, as its library does."""

    def save(model):
        folder = tmp_path / "parent"
        model.save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return save
