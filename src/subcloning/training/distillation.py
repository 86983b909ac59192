"""Distillation: a child learns its parent's predictions, too (Hinton et al., arXiv 1503.02531)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SubcloningError


class Teacher:
    """A trained parent, in evaluation mode, whole on each rank. Not an nn.Module, so that no checkpoint holds it.

    weight: the share of the parent's predictions in the loss; what is left is the labels'.
    temperature: that both models' logits are divided by.
    decay: the share falls linearly, to 0 at the end (teacher annealing of Clark et al., arXiv 1907.04829).
    done: says which share of training is done; asked at each step where the share decays.
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float,
        temperature: float,
        decay: bool = False,
        done: Callable[[], float] = lambda: 0.0,
    ):
        if not 0 < weight <= 1 or temperature <= 0:
            raise SubcloningError(
                f"distill.weight={weight} and temperature={temperature}: expected a weight above 0, at most 1, and a "
                "temperature above 0"
            )
        self.model = model.eval().requires_grad_(False)
        self.weight, self.temperature, self.decay, self.done = weight, temperature, decay, done

    def loss(self, loss: Tensor, logits: Tensor, predict: Callable[[nn.Module], Tensor]) -> Tensor:
        """The labels' `loss`, mixed with the divergence of the child's predictions from the parent's.

        logits: (..., classes) of the child; predict(model) gives the same of a model. As Hinton et al. do, the parent's
        share is multiplied by temperature**2, which keeps the size of its gradient.
        """
        with torch.no_grad():
            wanted = predict(self.model.to(logits.device))
        mine, wanted = (F.log_softmax(x.flatten(0, -2).float() / self.temperature, -1) for x in (logits, wanted))
        soft = F.kl_div(mine, wanted, log_target=True, reduction="batchmean") * self.temperature**2
        weight = self.weight * (1 - self.done()) if self.decay else self.weight
        return (1 - weight) * loss + weight * soft
