"""What is left of an uneven gain before a tied head, once the kept stream is turned to it.

    python benchmarks/tied_gain.py

For LayerNorm, whose mean direction must stay (`turned_to`); for RMSNorm nothing is left. Relative to what the gain's
mean leaves, for drawn gains and streams.
"""

import torch

from subcloning.method.principal import principal_map, turned_to


def left(size: int, kept: int, gain: torch.Tensor, generator: torch.Generator) -> float:
    """Frobenius norm of what is not matched, over that with the gain's mean."""
    data = torch.randn(4 * size, size, generator=generator) * torch.logspace(0, -2, size)
    stream = data.T @ data
    rows, _ = principal_map(stream, kept, True)
    rows, weights = turned_to(gain, rows, stream, True, lost=0.0)
    centre = torch.eye(kept, dtype=torch.float64) - 1 / kept
    rows, gain = centre @ rows.double(), gain.double()
    wanted = rows * gain @ rows.T
    error = wanted - centre * (weights.double() @ gain) @ centre
    return float(error.norm() / (wanted - gain.mean() * centre).norm())


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    for size, kept in ((24, 12), (32, 8), (128, 64), (768, 384)):
        noise = torch.randn(size, generator=generator)
        drawn = {"normal": 1 + 0.5 * noise, "lognormal": noise.exp()}
        found = {name: left(size, kept, gain, generator) for name, gain in drawn.items()}
        print(f"{kept} of {size}: " + ", ".join(f"{name} {value:.2%}" for name, value in found.items()))
