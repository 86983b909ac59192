"""Checkpoints as their own library knows them: found, loaded whole, resized, and saved for that library alone."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import SubcloningError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Checkpoint(Protocol):
    """A parent. place: a local folder, or a name that its library downloads. revision: a commit, branch or tag."""

    place: str
    revision: str | None

    @property
    def licence(self) -> str | None:
        """As its model card says, where that is known."""

    def empty(self) -> nn.Module:
        """The parent on the meta device, without values; its weights are not touched."""

    def trained(self, device_map: str | None = None) -> nn.Module:
        """The parent with its weights, in float32; or, by accelerate, over the devices of `device_map`, as saved."""

    def child(self, shape: dict) -> nn.Module:
        """A child with its library's initial weights; `shape`: what the family's `resized` says."""

    def save(self, child: nn.Module, folder: Path) -> None:
        """Write what the library needs to load the child with none of our code; but for its weights where it is on
        the meta device."""

    def loading(self, folder: Path) -> str:
        """The line of Python that does so."""

    def images(self, parent: Any) -> tuple[Callable, int]:
        """What makes of an image what the parent takes, as its own evaluation does; and of how many channels."""

    def folder(self) -> Path:
        """Where its files are on this machine, downloaded if need be."""


def find(place: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint that `place` names: a local folder or safetensors file, one of our runs, a timm name, or a name on
    the Hub. Raises SubcloningError where there is none that can be read without unpickling."""
    path = Path(place)
    if path.suffix in PICKLED:
        raise SubcloningError(
            f"{place} may be pickled, and unpickling runs whatever code is in it: save it as safetensors first"
        )
    if path.is_file():
        if path.name != "model.safetensors":
            raise SubcloningError(f"{place}: expected a model.safetensors with its config.json beside it, or a folder")
        path = path.parent
    if path.is_dir():
        return _local(path)
    if place.startswith((".", "/", "~")) or place.count("/") > 1:
        raise SubcloningError(f"{place} does not exist: expected a folder, a timm name, or a name on the Hub")
    import timm

    if timm.is_model(place):
        if revision:
            raise SubcloningError(f"--revision {revision}: {place} is a timm model; name it on the Hub, as timm/NAME")
        return Timm(place)
    if "/" not in place:
        raise SubcloningError(
            f"{place} is no folder, no timm model and no Hub name (OWNER/NAME): look it up with timm.list_models()"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(place, "config.json", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise SubcloningError(f"{place} cannot be read from the Hub: {error}") from error
    return _of_library(Path(file), place, "hf-hub", revision)


def _local(path: Path) -> Checkpoint:
    if (path / "summary.json").exists() and (path / "model").is_dir():
        path = path / "model"  # a run of subcloning.train
    if not (path / "config.json").exists():
        raise SubcloningError(f"{path} has no config.json: expected a folder that transformers or timm has saved")
    if not [*path.glob("*.safetensors")]:
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        what = f", only {pickled[0]}, which may be pickled: convert it" if pickled else ": is the download whole?"
        raise SubcloningError(f"{path} has no *.safetensors{what}")
    return _of_library(path / "config.json", str(path), "local-dir", None)


def _of_library(file: Path, place: str, scheme: str, revision: str | None) -> Checkpoint:
    """Of the library whose config `file` is. scheme: under which timm knows `place`."""
    with _config_of(place):
        config = dict(json.loads(file.read_text()))
    if "quantization_config" in config:
        raise SubcloningError(f"{place} is quantised: load it with its library, dequantise it, and save that")
    return Transformers(place, revision) if "model_type" in config else Timm(f"{scheme}:{place}", revision)


@contextmanager
def _config_of(place: str) -> Iterator[None]:
    """Libraries raise all kinds of errors for a config that is damaged, or of a model that they do not have."""
    try:
        yield
    except Exception as error:
        raise SubcloningError(
            f"{place}: its config.json makes no model; is it whole, and of one that this transformers or timm has? "
            f"{type(error).__name__}: {error}"
        ) from error


class Transformers:
    """Of Hugging Face transformers."""

    def __init__(self, place: str, revision: str | None = None):
        import transformers

        self.place, self.revision = place, revision
        self.pooled = True  # false once the weights turn out to have no pooler
        with _config_of(place):
            self.config: Any = transformers.AutoConfig.from_pretrained(place, revision=revision)
            name = (self.config.architectures or ["(none)"])[0]
            self.architecture: Any = getattr(transformers, name, None)
        if self.architecture is None:
            raise SubcloningError(f"{place} is of architecture {name}, which this transformers does not have")

    @property
    def licence(self) -> str | None:
        from huggingface_hub import ModelCard

        readme = Path(self.place) / "README.md"
        return getattr(ModelCard.load(readme).data, "license", None) if readme.exists() else None

    def empty(self) -> nn.Module:
        with _config_of(self.place), torch.device("meta"):
            return self.architecture(self.config)

    def trained(self, device_map: str | None = None) -> nn.Module:
        from transformers.utils import is_accelerate_available

        if device_map and not is_accelerate_available():
            raise SubcloningError(f"--device-map {device_map} needs accelerate, which is not installed")
        dtype: Any = {"dtype": "auto", "device_map": device_map} if device_map else {"dtype": torch.float32}
        options = dtype | {"use_safetensors": True, "ignore_mismatched_sizes": True}  # which are told by name below
        try:
            model, loaded = self.architecture.from_pretrained(
                self.place, revision=self.revision, output_loading_info=True, **options
            )
        except Exception as error:
            raise SubcloningError(f"{self.place} is damaged or not whole: {error}") from error
        if loaded["missing_keys"] and all(name.startswith("pooler.") for name in loaded["missing_keys"]):
            model.pooler, self.pooled = None, False  # of an encoder that was trained without
            loaded["missing_keys"] = []
        for what in ("missing_keys", "mismatched_keys"):
            if loaded[what]:
                raise SubcloningError(
                    f"{self.place} has {what.replace('_', ' ')}, {sorted(map(str, loaded[what]))[0]} among them: "
                    "download it again"
                )
        return model.eval()

    def child(self, shape: dict) -> nn.Module:
        child = self.architecture(type(self.config).from_dict(self.config.to_dict() | shape))
        if not self.pooled:
            child.pooler = None
        return child

    def save(self, child: Any, folder: Path) -> None:
        dtype = getattr(self.config, "dtype", None)
        dtype = dtype if isinstance(dtype, torch.dtype) else torch.float32
        if child.device.type == "meta":
            child.config.architectures, child.config.dtype = [type(child).__name__], dtype
            child.config.save_pretrained(folder)
        else:
            child.to(dtype).save_pretrained(folder)
        text = child.main_input_name == "input_ids"
        beside = {"tokenizer": self._tokenizer} if text else {"image processor": self._processor}
        beside |= {"generation config": self._generation} if child.can_generate() else {}
        for what, load in beside.items():
            try:
                load().save_pretrained(folder)
            except Exception as error:  # not there, or damaged, which raises all kinds
                said = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"subclone: the child goes without a {what}: {said}", file=sys.stderr)

    def _tokenizer(self) -> Any:
        from ..data.text.tokenizer import Pretrained

        return Pretrained(self.place, self.revision).make()

    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(self.place, revision=self.revision or "main")

    def _generation(self) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig.from_pretrained(self.place, revision=self.revision or "main")

    def loading(self, folder: Path) -> str:
        return f'transformers.{self.architecture.__name__}.from_pretrained("{folder}")'

    def images(self, parent: Any) -> tuple[Callable, int]:
        try:
            processor = self._processor()
        except Exception as error:
            raise SubcloningError(f"{self.place} has no image processor that can be read: {error}") from error
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0], parent.config.num_channels

    def folder(self) -> Path:
        return _downloaded(self.place, self.revision)


class Timm:
    """Of timm: a name, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`."""

    def __init__(self, place: str, revision: str | None = None):
        self.place, self.revision = place, revision

    def _create(self, **options) -> Any:
        import timm

        return timm.create_model(f"{self.place}@{self.revision}" if self.revision else self.place, **options)

    @property
    def licence(self) -> str | None:
        return self.empty().pretrained_cfg.get("license")

    def empty(self) -> Any:
        with _config_of(self.place), torch.device("meta"):
            return self._create()

    def trained(self, device_map: str | None = None) -> nn.Module:
        if device_map:
            raise SubcloningError(f"--device-map is for checkpoints of transformers, and {self.place} is one of timm")
        try:
            return self._create(pretrained=True).eval()
        except Exception as error:
            raise SubcloningError(f"{self.place} is damaged, not whole, or cannot be downloaded: {error}") from error

    def child(self, shape: dict) -> nn.Module:
        return self._create(**shape)

    def save(self, child: Any, folder: Path) -> None:
        from timm.models import save_for_hf

        save_for_hf(child, str(folder), safe_serialization=True)

    def loading(self, folder: Path) -> str:
        return f'timm.create_model("local-dir:{folder}", pretrained=True)'

    def images(self, parent: Any) -> tuple[Callable, int]:
        from timm.data import create_transform, resolve_model_data_config

        transform: Any = create_transform(**resolve_model_data_config(parent), is_training=False)
        return transform, parent.patch_embed.proj.in_channels

    def folder(self) -> Path:
        raise SubcloningError(f"--stream is for checkpoints of transformers; timm has {self.place} in one file")


def _downloaded(place: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(place, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise SubcloningError(f"{place} cannot be read from the Hub: {error}") from error
