"""Finished runs: what each of them is, and whether they are of one study."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from transformers.utils import flatten_dict

from ..errors import SubcloningError
from .folder import DATA_PLACES, IDENTITY, NOT_IDENTITY, PARENT_PLACES

# In which an arm's runs may differ, beside what is no part of a run's identity.
FREE = (*NOT_IDENTITY, *DATA_PLACES, "seed", "data.seed", "optim.lr", "optim.weight_decay")
# In a run's config, but not the run's own: where things lie, who is told, and what other values were made from.
ROOTS = ("runs", "corpora", "images")
NOT_ITS_OWN = (*ROOTS, "run", "run_dir", "logger", "recipe", "tuned", "cases", "parents")
# Of the data, how often a run is validated: that may be another in another case.
HOW_OFTEN = ("data.validate_every", "data.validations_per_epoch")
IN_KEYS = ("case", "init.name", "optim.lr", "optim.weight_decay", "seed")


class Run(NamedTuple):
    """A finished run. curve: as its metrics.csv."""

    place: str
    config: dict
    provenance: dict
    seconds: float
    curve: pd.DataFrame

    @property
    def keys(self) -> dict:
        """Which run of its study it is."""
        case = {"case": self.config["case"]} if self.config.get("case") else {}
        init, optim = self.config["init"]["name"], self.config["optim"]
        setting = {key: plain(optim[key]) for key in ("lr", "weight_decay")}
        return {**case, "init": init, **setting, "seed": self.config["seed"]}

    @property
    def options(self) -> dict:
        """What it was trained with, by dotted keys; not what is off, as is an option that older code had not."""
        known = flatten_dict({key: self.config.get(key) for key in IDENTITY})
        known |= flatten_dict({"contents": {key: self.provenance.get(key) for key in ("parent", "data")}})
        # Where the parent lay counts only for runs that do not know its contents.
        free = tuple(f"{key}." for key in (*FREE, *(PARENT_PLACES if "parent" in self.provenance else ())))
        return {key: value for key, value in known.items() if value and not f"{key}.".startswith(free)}

    @property
    def described(self) -> dict:
        """Its config and provenance by dotted keys, without what `keys` says and what is not its own.

        Empty groups, which W&B does not keep, are left out.
        """
        roots = [(key, self.config[key]) for key in ROOTS if key in self.config]
        own = {key: value for key, value in self.config.items() if key not in NOT_ITS_OWN}
        flat = flatten_dict({**own, "provenance": self.provenance})
        said = (*IN_KEYS, "data.seed") if flat.get("data.seed") == self.config["seed"] else IN_KEYS
        return {key: plain(value, roots) for key, value in flat.items() if key not in said and value != {}}


def plain(value: object, roots: Sequence[tuple[str, str]] = ()) -> object:
    """`value` as it is recorded: 1 for 1.0, which W&B does not tell apart, and no place that only one machine has.

    roots: names of folders, and where they lie; a path below one of them begins with its name.
    """
    if isinstance(value, list):
        return [plain(part, roots) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        for name, root in roots:
            if value.startswith(f"{root}/"):
                return f"{name}/{value.removeprefix(root).strip('/')}"
        if value.startswith("/"):
            return "/".join(Path(value).parts[-2:])
    return value


def check(runs: Sequence[Run]) -> None:
    """Raise unless the runs are of one study, and each is there once."""
    without, cased = ([run for run in runs if ("case" in run.keys) == expected] for expected in (False, True))
    if without and cased:
        raise _not_of_one_study(without[0], cased[0], [f"case = off and {cased[0].keys['case']}"])
    _check_options(runs)
    seen: dict[tuple, Run] = {}
    for run in runs:
        twin = seen.setdefault(tuple(run.keys.values()), run)
        if twin is not run:
            raise SubcloningError(f"{twin.place} and {run.place} are the same run, {run.keys}: move one of them away")


def _check_options(runs: Sequence[Run]) -> None:
    """Raise unless runs that must have an option in common do."""
    options = [run.options for run in runs]
    keys = sorted({key for mine in options for key in mine})
    firsts: dict[tuple, tuple[Run, object]] = {}
    for run, mine in zip(runs, options, strict=True):
        differing = []
        for key in keys:
            value = mine.get(key, "off")
            first, wanted = firsts.setdefault((key, *_sharing(key, run, mine)), (run, value))
            if value != wanted:
                differing.append((first, f"{key} = {wanted} and {value}"))
        if differing:
            other = differing[0][0]
            raise _not_of_one_study(other, run, [what for first, what in differing if first is other])


def _sharing(key: str, run: Run, options: dict) -> tuple:
    """Which runs must have the option `key` in common with `run`: all, those of its case, or those of its arm."""
    part, case = key.split(".")[0], run.keys.get("case")
    if part == "name" or (part == "data" and key not in HOW_OFTEN):
        return ()
    if part == "init":
        return (case, run.keys["init"])
    if part == "contents" or key.startswith("parent.weights."):  # not recorded for all: random weights have no parent
        return (case, key in options)
    return (case,)


def _not_of_one_study(one: Run, other: Run, what: Sequence[str]) -> SubcloningError:
    return SubcloningError(
        f"{one.place} and {other.place} are not of one study: {', '.join(what)}. Give each study its own name "
        "(name=...), or move away the runs that do not belong to this one"
    )
