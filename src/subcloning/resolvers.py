"""What configs look up: `${winner:digits/grid,${init.name},lr}` in a tuning grid, `${case:heads}` in the case at hand.

Registered on import: every program that composes configs/train.yaml imports this module.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from .errors import SubcloningError
from .files import ROOT


def winner(grids: str | Sequence[str], init: str, setting: str, case: str | None = None) -> float:
    """An arm's best lr or weight_decay, `setting`, in a tuning grid.

    grids: STUDY/STEM, as digits/grid, for experiments/STUDY/STEM.csv ($SUBCLONING_EXPERIMENTS in place of experiments,
    if set); of several, the first that has the arm. A grid is judged by what its study is tuned for; one of several
    cases by the end, since their times are not comparable. Cases of parents_grid are parents, over which it is tuned.
    Raises SubcloningError if a grid is not there, or none has the arm.
    """
    grids = [grids] if isinstance(grids, str) else list(grids)
    files = [Path(os.environ.get("SUBCLONING_EXPERIMENTS", ROOT / "experiments"), f"{grid}.csv") for grid in grids]
    tried: set[str] = set()
    for file in files:
        if not file.exists():
            raise SubcloningError(
                f"there is no {file}: {_command(file)} makes it; or give optim.lr and optim.weight_decay"
            )
        found = _winners(file, file.stat().st_mtime_ns)
        if (case, init) in found:
            return found[case, init][setting]
        cases = {known for known, _ in found if known}
        tried |= {known for part, known in found if part == case} or cases
    raise SubcloningError(
        f"{' '.join(filter(None, (case, init)))} was not tuned: {' and '.join(map(str, files))} has only "
        f"{', '.join(sorted(tried))}. Tune it ({_command(files[0])}), or give optim.lr and optim.weight_decay"
    )


def _command(file: Path) -> str:
    part = "tuning" if file.stem == "grid" else file.stem.removesuffix("_grid")
    return f"experiments/{file.parent.name}/run.sh {part}"


@lru_cache
def _winners(file: Path, modified: int) -> dict[tuple[str | None, str], dict[str, float]]:
    """(case or None, init) -> setting -> its best value."""
    # The libraries take seconds to import: not for runs whose settings are given.
    from dataclasses import replace

    from .analysis.runs import read_runs
    from .analysis.speedup import best_settings, of_parents
    from .analysis.study import STUDIES

    if file.parent.name not in STUDIES:
        raise SubcloningError(f"{file} is of no study: expected one of {', '.join(sorted(STUDIES))}")
    study, grid = STUDIES[file.parent.name], read_runs(file)
    if file.stem == "parents_grid":
        grid = of_parents(grid)
    parts: dict[Any, Any] = {None: best_settings(grid, study)} if "case" not in grid else {}
    if "case" in grid:
        for case, own in grid.groupby("case"):
            parts[case] = best_settings(own, replace(study, tuned_for="final"), drop_fewer=True)
    return {
        (case, init): {"lr": float(row["lr"]), "weight_decay": float(row["weight_decay"])}
        for case, best in parts.items()
        for init, row in best.iterrows()
    }


def of_case(key: str, *, _root_: Any) -> Any:
    """The value of `key` in the config's table `cases`, of the one that is its `case`. Raises SubcloningError."""
    if _root_.case not in _root_.cases:
        raise SubcloningError(f"case={_root_.case}: {_root_.name} has only {', '.join(_root_.cases)}")
    return _root_.cases[_root_.case][key]


def composed(*overrides: str) -> DictConfig:
    """configs/train.yaml with `overrides`, as the command line of subcloning.train takes them."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


OmegaConf.register_new_resolver("winner", winner, replace=True)
OmegaConf.register_new_resolver("case", of_case, replace=True)
