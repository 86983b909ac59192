"""A family that no library knows, a residual MLP: a table and its probes. Needs PyTorch and this package, no more."""

from contextlib import contextmanager

from torch import nn

from subcloning import Family, Probe, register
from subcloning.method.axes import FAMILIES


class Block(nn.Module):
    def __init__(self, width, hidden, norm):
        super().__init__()
        self.norm = norm(width)
        self.up, self.gate = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        y = self.norm(x)
        return x + self.down(self.up(y) * self.gate(y).sigmoid())


class ResidualMLP(nn.Module):
    def __init__(self, width, hidden, depth, norm=nn.RMSNorm):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(7, width), norm(width), nn.Linear(width, 3)
        self.layers = nn.Sequential(*(Block(width, hidden, norm) for _ in range(depth)))

    def forward(self, x):
        return self.head(self.norm(self.layers(self.stem(x))))


@contextmanager
def residual_mlp():
    family = Family(
        name="residual MLP",
        model_class=f"{__name__}.ResidualMLP",
        table={
            "stem.weight": "residual <- feature",
            "stem.bias": "residual",
            "layers.{block}.norm.weight": "residual",
            "layers.{block}.norm.bias": "residual",
            "layers.{block}.up.weight": "hidden <- residual",
            "layers.{block}.gate.weight": "hidden <- residual",
            "layers.{block}.down.weight": "residual <- hidden",
            "norm.weight": "residual",
            "norm.bias": "residual",
            "head.weight": "label <- residual",
            "head.bias": "label",
        },
        probes={
            "residual": Probe("layers.{block}", "output", "residual"),
            "hidden": Probe("layers.{block}.down", "input", "hidden"),
        },
        inner_sizes=lambda model: {},
        norms={"layers.{block}.norm": ("layers.{block}.up", "layers.{block}.gate"), "norm": ("head",)},
    )
    try:
        yield register(family)
    finally:
        del FAMILIES[family.model_class]
