"""A run's folder: who works in it, which run it holds, and where that run stands."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from transformers.utils import flatten_dict

from ..errors import SubcloningError
from ..files import atomic, locked
from .interruptions import LAST, PREVIOUS, StopAtStep, newest_checkpoint
from .protocols import parent_of
from .record import SYNCED, WANDB_ID, own_config, read_json

# What a run is. The logger says only who is told.
IDENTITY = ("name", "parent", "destination", "init", "data", "optim", "distill", "trainer", "seed")
# But not where the code for it lies (_target_), what it runs on, and how data are read;
NOT_IDENTITY: tuple[str, ...] = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
NOT_IDENTITY += ("data.workers", "data.verify")
# nor what tables and figures say of an arm;
DESCRIPTIONS = ("label", "question", "answer", "order", "colour")
NOT_IDENTITY += tuple(f"init.{key}" for key in DESCRIPTIONS)
# nor where things lie. Their contents, which provenance.json has, count instead.
PARENT_PLACES: tuple[str, ...] = ("parent.weights.checkpoint_path", "parent.weights.path")
PARENT_PLACES += tuple(f"data.parent_preprocessing.{key.removeprefix('parent.')}" for key in PARENT_PLACES)
DATA_PLACES: tuple[str, ...] = ("data.folder", "data.train", "data.validation", "data.corpus.folder")
DATA_PLACES += ("data.corpus.source.train", "data.corpus.source.validation", "data.corpus.tokenizer.path")


class Begun(NamedTuple):
    """What a folder held. provenance: as recorded, empty for a new run. summary: of a run that is done. checkpoint: to
    go on from. moved: the data are to be read from elsewhere than they were."""

    folder: Path
    provenance: dict
    summary: dict | None = None
    checkpoint: Path | None = None
    moved: bool = False

    def same_data(self, found: dict) -> None:
        """Raise unless the data that were `found` are those that the run had."""
        known = self.provenance.get("data", {})
        if differing := [key for key in known if key in found and known[key] != found[key]]:
            what = ", ".join(f"{key} {known[key]} (now {found[key]})" for key in differing)
            raise SubcloningError(f"{self.folder} holds a run on other data: {what}. {MEND}")


MEND = "Give this one a new experiment name (name=...), or remove the folder to train it again"


@contextmanager
def claimed(folder: Path, cfg: DictConfig, stop: StopAtStep) -> Iterator[Begun]:
    """Wait until no other process is at work in `folder`, keep others out, and yield what is there of the run `cfg`."""
    with ExitStack() as stack:
        with stop.at_once():
            stack.enter_context(locked(folder / ".lock"))
        yield _claim(folder, cfg)


def uses_parent(cfg: DictConfig) -> bool:
    """Whether anything but the parent's shape matters to the run."""
    return bool(cfg.init.select or cfg.get("distill"))


def _claim(folder: Path, cfg: DictConfig) -> Begun:
    """Write a new run's config; but if the folder holds a trained or begun run, make sure that it is the same one."""
    for key in ("lr", "weight_decay"):
        if isinstance(cfg.optim[key], float) and cfg.optim[key].is_integer():
            value = cfg.optim[key]
            raise SubcloningError(f"optim.{key}={value}: write {value:.0f}, so that the run's folder has one name only")
    wanted = own_config(cfg)
    if not any((folder / name).exists() for name in (LAST, PREVIOUS, "summary.json")):
        _forget(folder)
        with atomic(folder / "config.yaml") as temporary:
            OmegaConf.save(OmegaConf.create(wanted), temporary)
        return Begun(folder, {})
    known = read_json(folder / "provenance.json")
    differing = _differing(_read_config(folder / "config.yaml"), wanted)
    moved = any(_below(key, DATA_PLACES) for key in differing)
    ignored = DATA_PLACES + (PARENT_PLACES if "parent" in known else ())
    if others := {key: values for key, values in differing.items() if not _below(key, ignored)}:
        what = ", ".join(f"{key} = {old} (wanted {new})" for key, (old, new) in others.items())
        raise SubcloningError(f"{folder} holds another run: {what}. {MEND}")
    if uses_parent(cfg) and (before := (known.get("parent") or {}).get("sha256")):
        parent = parent_of(cfg)
        if parent.place is None or Path(parent.place).exists():  # a run that goes on does not need it
            now = parent.contents().get("sha256")
            if now != before:
                raise SubcloningError(
                    f"{folder} holds a run whose parent had other weights: sha256 {before}, and now {now}, in "
                    f"{parent.place}. Was the parent trained again? {MEND}"
                )
    done = folder / "summary.json"
    if done.exists():
        return Begun(folder, known, summary=read_json(done), moved=moved)
    if not (checkpoint := newest_checkpoint(folder)):
        _forget(folder)
    return Begun(folder, known, checkpoint=checkpoint, moved=moved)


def _forget(folder: Path) -> None:
    """Remove what says that W&B has the run: what begins now is another, to W&B too."""
    for file in (folder / WANDB_ID, *folder.glob(f"{SYNCED}*.json")):
        file.unlink(missing_ok=True)


def _read_config(file: Path) -> dict:
    try:
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig) or not config:
            raise ValueError("no mapping")
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise SubcloningError(f"{file} cannot be read ({error}). {MEND}") from error
    known: Any = OmegaConf.to_container(config)
    return known


def _differing(found: dict, wanted: dict) -> dict[str, tuple]:
    """Key of the identity -> (value found, value wanted), where they are not the same."""
    old, new = (flatten_dict({key: config.get(key) for key in IDENTITY}) for config in (found, wanted))
    keys = [key for key in sorted({*old, *new}) if not (_below(key, NOT_IDENTITY) or key.endswith("_target_"))]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _below(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)
