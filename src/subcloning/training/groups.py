"""What the optimiser is told about each parameter: its weight decay, and its share of the learning rate."""

from collections.abc import Collection

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn


def parameter_groups(model: nn.Module, optim: dict, no_decay: Collection[str], matcher: dict | None = None) -> list:
    """Groups for a PyTorch optimiser. Vectors, biases and what `no_decay` names are spared by weight decay.

    optim: lr, weight_decay and layer_decay: each layer's rate is that of the one behind it times layer_decay, as in
        BEiT (arXiv 2106.08254); null for one rate everywhere.
    matcher: what a layer is, as in timm's `group_matcher`, for a model that has none.
    """
    decay = optim["weight_decay"]
    if not optim.get("layer_decay"):
        return param_groups_weight_decay(model, decay, no_weight_decay_list=no_decay)
    if matcher:
        model.group_matcher = lambda coarse=False: matcher
    groups = param_groups_layer_decay(model, decay, no_weight_decay_list=no_decay, layer_decay=optim["layer_decay"])
    return [{**group, "lr": optim["lr"] * group["lr_scale"]} for group in groups]
