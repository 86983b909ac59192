"""The paper's claims, and ours, against what was measured: experiments/RESULTS.md, from committed files alone."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from .studies import markdown
from .text import chance_text
from .verdicts import (
    NOT,
    REPRODUCED,
    WAITING,
    Evidence,
    Finding,
    better_end,
    better_in_all_cases,
    better_than,
    correlated_layers,
    early_speed_up,
    lower_optimum,
    middle_blocks,
    nearer_parent,
    without,
)


@dataclass(frozen=True)
class Claim:
    """waiting: (scale, command) of what was not run."""

    text: str
    figure: str
    folder: str
    paper: str
    find: Callable[[Evidence], Finding | None]
    waiting: tuple[tuple[str, str], ...]


_CIFAR = ("small, ViT on CIFAR-10", "experiments/run.sh vit_cifar10 experiments data=cifar10_folder")
_BOOKS = ("small, GPT-2 on books", "experiments/run.sh gpt2_books,gpt2_books_depth experiments")


def _paper(experiment: str) -> tuple[str, str]:
    return "paper", f"python -m subcloning.submit cluster=mine experiment={experiment}"


def _measured(figure: str, *experiments: str) -> tuple[tuple[str, str], ...]:
    return tuple(("paper", f"python -m subcloning.analysis {figure} experiment={name}") for name in experiments)


CLAIMS = (
    Claim(
        "Subcloning reaches an early quality about four times sooner",
        "Fig. 1, 9, 10",
        "fig01_09_10_convergence",
        "4 times (70 % top-1 after 10 epochs instead of 40)",
        early_speed_up,
        (_CIFAR, _BOOKS, _paper("fig09_vit"), _paper("fig10_gpt2")),
    ),
    Claim(
        "It is better at the end of a limited budget",
        "Fig. 1, 9, 10",
        "fig01_09_10_convergence",
        "yes, in the plots",
        better_end,
        (_CIFAR, _BOOKS, _paper("fig09_vit"), _paper("fig10_gpt2")),
    ),
    Claim(
        "Its best learning rate and weight decay are far lower",
        "Fig. 11, Table 1",
        "fig11_tuning",
        "ViT: LR 0.0001 against 0.002, WD 0.005 against 0.2; GPT-2: LR 0.0001 for both, WD 0.001 against 0.1",
        lower_optimum,
        (_CIFAR, _BOOKS, _paper("fig11_lr_wd")),
    ),
    Claim(
        "Scaling the weights by sqrt(d/d') helps",
        "Fig. 12",
        "fig12_scaling",
        "clearly, in the plot",
        without("subclone_no_scaling"),
        (_CIFAR, _BOOKS, _paper("fig12_scaling")),
    ),
    Claim(
        "Keeping the important neurons is better than keeping the first",
        "Fig. 14",
        "fig14_reordering",
        "notably, in the plot",
        without("subclone_no_reordering"),
        (_CIFAR, _BOOKS, _paper("fig14_reordering")),
    ),
    Claim(
        "A nearer parent is better than a bigger one",
        "Fig. 13",
        "fig13_parent",
        "yes, in the plot: GPT-2 large before XL",
        nearer_parent,
        (_paper("fig13_parent"),),
    ),
    Claim(
        "The middle blocks are the cheapest to remove or duplicate",
        "Fig. 2",
        "fig02_blocks",
        "yes, in the plot",
        middle_blocks,
        _measured("fig02", "fig09_vit", "fig10_gpt2"),
    ),
    Claim(
        "Magnitudes of neurons are correlated between layers",
        "Fig. 3",
        "fig03_05_06_08_scores",
        "strongly, in the plot",
        correlated_layers,
        _measured("fig03", "fig09_vit", "fig10_gpt2"),
    ),
)


BEYOND = (
    Claim(
        "Principal directions of the residual stream are better than important neurons",
        "Ours",
        "principal",
        "does not have it",
        better_than("subclone", "principal"),
        (_CIFAR, _BOOKS),
    ),
    Claim(
        "So they are at other shapes and budgets, with other parents, and with distillation",
        "Ours",
        "cases",
        "does not have it",
        better_in_all_cases,
        (),
    ),
    Claim(
        "Important units are better than random ones",
        "Ours",
        "controls",
        "does not compare them",
        better_than("random_subset"),
        (),
    ),
    Claim(
        "Important units are better than the least important ones",
        "Ours",
        "controls",
        "does not compare them",
        better_than("least_important"),
        (),
    ),
    Claim(
        "One choice of units for the whole network is better than a new one for each tensor",
        "Ours",
        "controls",
        "takes it for granted",
        better_than("inconsistent"),
        (),
    ),
    Claim(
        "Weights in their places are better than the same weights shuffled",
        "Ours",
        "controls",
        "takes it for granted",
        better_than("shuffled"),
        (),
    ),
)


def results(evidence: list[Evidence], claims: tuple[Claim, ...] = CLAIMS) -> str:
    """What RESULTS.md says of all claims. What the paper does not claim is not reproduced or not, but true or not."""
    words = {REPRODUCED: "yes", NOT: "no"} if claims is BEYOND else {}
    sections, overview, intervals = [], [], 0
    for claim in claims:
        found = [claim.find(e) for e in evidence]
        verdicts = [words.get(finding.verdict, finding.verdict) if finding else "-" for finding in found]
        overview.append((claim.text, *verdicts))
        rows = []
        for e, finding, verdict in zip(evidence, found, verdicts, strict=True):
            if finding:
                rows.append((f"[{e.name}]({e.folder})", finding.ours, str(finding.seeds or "-"), verdict))
                intervals += finding.intervals
        rows += [(scale, f"`{command}`", "-", WAITING) for scale, command in claim.waiting]
        sections.append(
            f"## {claim.text}\n\n{claim.figure}; [figures]({claim.folder}). The paper: {claim.paper}.\n\n"
            f"{markdown(pd.DataFrame(rows, columns=['study', 'ours', 'seeds', 'verdict']))}\n"
            f"Rule: {' '.join(claim.find.__doc__.split())}\n"
        )
    table = markdown(pd.DataFrame(overview, columns=["claim", *(e.name for e in evidence)]))
    return "\n".join([table, f"These verdicts rest on {chance_text(intervals)}\n", *sections])
