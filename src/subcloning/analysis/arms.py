"""The arms of studies: what tables and figures call each init mode, as configs/init/NAME.yaml says."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import SubcloningError
from ..files import ROOT

BASELINE, REFERENCE = "random", "subclone"  # what studies, and what controls and cases compare the others with


@dataclass
class Arm:
    """An init mode.

    label: what figures call it. question: which one of the controls' it answers; answer: how (default: its label).
    order: of rows (default: after all others). colour: of its curves.
    """

    name: str
    label: str
    question: str | None = None
    answer: str = ""
    order: float = math.inf
    colour: str | None = None

    @classmethod
    def load(cls, file: Path) -> "Arm":
        """Of configs/init/NAME.yaml. What it inherits from another mode is not its own."""
        own = yaml.safe_load(file.read_text())
        if own.get("name") != file.stem:
            raise SubcloningError(f"{file} has name: {own.get('name')}: expected {file.stem}, as the file is called")
        if not own.get("label"):
            raise SubcloningError(f"{file} has no label: say what tables and figures are to call {file.stem}")
        known = {key: own[key] for key in ("name", "label", "question", "order", "colour") if key in own}
        return cls(**known, answer=own.get("answer", own["label"]))

    @property
    def ink(self) -> str:
        """Its colour. Raises SubcloningError if it has none."""
        if self.colour is None:
            raise SubcloningError(
                f"configs/init/{self.name}.yaml has no colour: its curves cannot be drawn without one"
            )
        return self.colour


# Fig. 13: subcloned from a bigger parent, which is a study's own matter and no init mode.
BIGGER = Arm("bigger parent", "bigger parent", order=29, colour="#8C510A")


def load_arms(folder: Path = ROOT / "configs" / "init") -> dict[str, Arm]:
    """All arms by name, in the order of rows."""
    found = [*map(Arm.load, folder.glob("[!_]*.yaml")), BIGGER]
    return {arm.name: arm for arm in sorted(found, key=lambda arm: (arm.order, arm.name))}


ARMS = load_arms()


def known(found: Iterable[str]) -> list[Arm]:
    """The arms of these names: the baseline, then the others in order. Raises SubcloningError for what is no arm."""
    found = set(found)
    if unknown := sorted(map(str, found - set(ARMS))):
        raise SubcloningError(
            f"runs of {unknown}, which configs/init does not have: add a file there, or leave the runs out"
        )
    return sorted((arm for arm in ARMS.values() if arm.name in found), key=lambda arm: arm.name != BASELINE)


def by_question(found: Iterable[str]) -> list[Arm]:
    """The arms of these names, question by question. Raises SubcloningError for one that answers none."""
    arms = known(found)
    if silent := [arm.name for arm in arms if arm.question is None]:
        raise SubcloningError(f"configs/init/{silent[0]}.yaml has no question: say which one {silent[0]} answers")
    questions = list(dict.fromkeys(arm.question for arm in ARMS.values()))
    return sorted(arms, key=lambda arm: (questions.index(arm.question), arm.order))
