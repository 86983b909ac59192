"""What a parent, a task and data must offer to be trained: `TimmParent` and `LanguageParent` are such parents.

A model of another library needs a class of the first kind, named by `_target_` in configs/parent, and one of the second
where it is neither a classifier of images nor a language model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torchmetrics import Metric

from ..errors import SubcloningError
from .distillation import Teacher


class Data(Protocol):
    """A LightningDataModule whose loaders give one rank its micro-batches; a step reads what its number tells.

    batch_size: samples of one optimiser step, over all ranks and passes.
    steps: optimiser steps from one validation to the next.
    provenance: what the data are, told by their contents. A run goes on, or counts as done, with no other.
    """

    batch_size: int
    steps: int

    @property
    def provenance(self) -> dict: ...

    def scoring_batches(self, rank: int = 0, ranks: int = 1) -> Iterator[Tensor]:
        """One rank's share of the batches that score a parent, as the model takes them; the same in every run."""


class Task(Protocol):
    """A LightningModule that trains `model`; its `training_step` adds to `train_loss`, which goes into checkpoints.

    headline: the metric that is printed at the end. It logs that, and `val_loss`, in nats per label or token.
    teacher: set after construction, where the run distils.
    validations: how many there are, from the beginning to the end of training.
    unit: what throughput counts, and how many of them a sample has: ("tokens", 1024).
    """

    model: nn.Module
    headline: str
    teacher: Teacher | None
    train_loss: Metric
    unit: tuple[str, int]

    @property
    def validations(self) -> int: ...

    def progress(self, step: int) -> dict[str, Any]:
        """What a curve is drawn against after `step` optimiser steps: {"epoch": 1.5}, {"tokens": 4096}."""


class Parent(Protocol):
    """A model whose children are trained. Nothing is read or downloaded before `contents` or `trained`.

    place: where its weights are on this machine; None where they are not, or are random.
    """

    name: str

    @property
    def place(self) -> str | None: ...

    def child(self, destination: dict) -> nn.Module:
        """A new model with random weights: of the parent's own shape where `destination` is empty, else of the shape
        that its width and depth, or heads and blocks, ask for. May be called on the meta device."""

    def trained(self) -> nn.Module:
        """The parent with its weights, on the CPU."""

    def contents(self) -> dict:
        """What tells its weights from others: {"sha256"} of files here, {"hub", "commit"}, or {} of random ones. Called
        on rank 0 before other ranks call `trained`; downloads what they then find."""

    def hold(self, contents: dict) -> None:
        """Keep `trained` to the weights with these `contents`, as recorded at a run's start; {} changes nothing."""

    def scoring_loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The loss summed over a batch of `Data.scoring_batches`, whose gradient the Taylor score takes."""

    def module(self, model: nn.Module, optim: dict, data: Any, *, fused: bool) -> Task:
        """The task that trains `model` on `data` as `optim` (configs/optim) says; SubcloningError where they do not
        fit. fused: whether the optimiser may be PyTorch's fused one."""

    def sample(self, cfg: DictConfig) -> tuple[dict, int]:
        """(arguments of a forward pass over one sample, on the default device; tokens that it has)."""

    def workload(self, cfg: DictConfig) -> float:
        """Samples that a run reads."""

    def export(self, model: nn.Module, folder: Path, data: Any) -> None:
        """Save a trained `model` into `folder`, so that its library loads it from there."""


def parent_of(cfg: DictConfig) -> Parent:
    """The parent of a run (configs/train.yaml)."""
    return offering(Parent, instantiate(cfg.parent, _convert_="all"))


def data_of(cfg: DictConfig) -> Data:
    """The data of a run (configs/train.yaml)."""
    return offering(Data, instantiate(cfg.data, _convert_="all"))


def offering(protocol: Any, thing: Any) -> Any:
    """`thing`, if it has all that the protocol names."""
    names = {*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))}
    if lacking := sorted(names - {*dir(thing)}):
        raise SubcloningError(
            f"{type(thing).__module__}.{type(thing).__qualname__} is no {protocol.__name__}: it lacks "
            f"{', '.join(lacking)}, which subcloning.training.protocols describes"
        )
    return thing
