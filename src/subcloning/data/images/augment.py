"""What is done to a batch of images on the device that trains: normalise, shift and flip, erase, mix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from ...errors import SubcloningError


@dataclass(frozen=True)
class Recipe:
    """How a classifier is regularised; all of it is timm's, but for `shift`. None and zero stand for nothing.

    Large sets, image by image in the loader's workers (`timm.data.create_transform`):
    crop: smallest and largest share of the image's area; None for the crop of validation.
    auto_augment: name of a policy, such as "rand-m9-mstd0.5" or "original". color_jitter: its strength.

    Small sets, on the batch:
    shift: each image is moved by up to so many pixels.

    Both: flip (probability), erase (probability, filled with noise), mixup and cutmix (alpha), label_smoothing, repeats
    (copies of an image in a batch, arXiv 1901.09335), ema_decay (per step, of the averaged weights), and for the model,
    whose config passes them on, dropout (of its blocks) and drop_path (stochastic depth, of its last block).
    """

    crop: Sequence[float] | None = None
    auto_augment: str | None = None
    color_jitter: float | None = None
    shift: int = 0
    flip: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    repeats: int = 1
    ema_decay: float | None = None
    dropout: float = 0.0
    drop_path: float = 0.0


def refuse_idle_recipe(cfg: DictConfig) -> None:
    """Raise if `cfg` (configs/train.yaml) asks for a recipe and its data, text, have no use for one."""
    given = {key: value for key, value in cfg.recipe.items() if key != "_target_"}
    idle = [f"{key}={value}" for key, value in given.items() if value != getattr(Recipe, key)]
    if idle and "recipe" not in cfg.data:
        raise SubcloningError(
            f"recipe: {', '.join(idle)}: recipes are for images, and {cfg.name} trains on text. Leave the recipe out; "
            "dropout is the model's, as in parent.model.resid_pdrop=0.1"
        )


class BatchTransform(nn.Module):
    """Images of the loader, (n, channels, height, width) in uint8 or float32, to the model's input and targets.

    mean, std: per channel, for values from 0 to 1; images in float32 are normalised already.
    on_batch: whether shift and flip are left to this; large sets do both in their workers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, mean: Sequence[float], std: Sequence[float], classes: int, *, on_batch: bool):
        super().__init__()
        self.recipe = recipe
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.shift, self.flip = (recipe.shift, recipe.flip) if on_batch else (0, 0.0)
        self.erase = RandomErasing(recipe.erase, mode="pixel") if recipe.erase else None
        mix = {"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix}
        options = {"label_smoothing": recipe.label_smoothing, "num_classes": classes}
        self.mixup = Mixup(**mix, **options) if recipe.mixup or recipe.cutmix else None

    def normalised(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images
        return torch.sub(images, self.mean.to(images.device)).div_(self.std.to(images.device))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(images, targets) of a training batch; targets are class numbers, or probabilities where images are mixed."""
        if self.shift or self.flip:
            images = shifted_and_flipped(images, self.shift, self.flip)
        images = self.normalised(images)
        if self.erase:
            self.erase.device = images.device
            images = self.erase(images)
        return self.mixup(images, labels) if self.mixup else (images, labels)


def shifted_and_flipped(images: Tensor, shift: int, flip: float) -> Tensor:
    """Each image moved by up to `shift` pixels both ways, reflected at its edges, and mirrored with chance `flip`."""
    n, channels, height, width = images.shape
    device = images.device

    def positions(size):
        start = torch.randint(-shift, shift + 1, (n, 1), device=device)
        at = (start + torch.arange(size, device=device)).abs()
        return torch.where(at < size, at, 2 * (size - 1) - at)

    rows, columns = positions(height), positions(width)
    columns = torch.where(torch.rand(n, 1, device=device) < flip, columns.flip(1), columns)
    image, channel = torch.arange(n, device=device), torch.arange(channels, device=device)
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
