"""How often do 95 % intervals over a few parents hold the truth? Bootstrap of parents and their seeds, and Student's t.

    python benchmarks/bootstrap.py      # writes bootstrap.csv beside it, in a minute

Differences of single runs are normal, with a share of their variance between parents. The bootstrap draws parents with
replacement, and seeds of each; its interval is from the 2.5 to the 97.5 % quantile of 1,000 means. The t interval takes
each parent's mean as one observation, as `subcloning.analysis.intervals.difference` does.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from subcloning.analysis.intervals import difference

TRIALS, DRAWS = 2000, 1000


def covered(parents: int, seeds: int, share: float, random: np.random.Generator) -> tuple[bool, bool]:
    """Whether each interval of one draw of runs, whose true mean is 0, holds it."""
    runs = share**0.5 * random.normal(size=(parents, 1)) + (1 - share) ** 0.5 * random.normal(size=(parents, seeds))
    drawn = random.integers(parents, size=(DRAWS, parents))
    of_each = random.integers(seeds, size=(DRAWS, parents, seeds))
    low, high = np.quantile(runs[drawn[..., None], of_each].mean((1, 2)), [0.025, 0.975])
    index = pd.MultiIndex.from_product([range(parents), range(seeds)])
    found = difference(pd.Series(runs.ravel(), index), pd.Series(0.0, index))
    return bool(low <= 0 <= high), found.low <= 0 <= found.high


def main() -> None:
    random, rows = np.random.default_rng(0), []
    for parents, seeds in ((3, 1), (3, 2), (4, 2), (5, 3), (10, 3)):
        for share in (0.0, 0.5, 0.9):
            hits = np.mean([covered(parents, seeds, share, random) for _ in range(TRIALS)], axis=0)
            cells = {"parents": parents, "seeds": seeds, "between_parents": share}
            rows.append(cells | {"bootstrap": hits[0].round(3), "t": hits[1].round(3)})
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
