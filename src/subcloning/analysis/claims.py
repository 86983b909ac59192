"""The paper's claims and ours, the rules by which they are judged, and what was not run for them."""

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Evidence
from .verdicts import (
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
    """figure, folder: where it is drawn, in the paper and below experiments/. paper: what the paper says of it. find:
    what was measured, judged by the rule."""

    text: str
    figure: str
    folder: str
    paper: str
    find: Callable[[Evidence], Finding | None]
    rule: str


_SEEN = "A run that is there by its first validation counts as there at it: what lies before is interpolated."
_BOTH = (
    "{} where {} is sooner at the early target and better at the end, both with their intervals; partly where one is "
    "in favour and the other open; {} where one speaks against it, or neither in favour. " + _SEEN
)
_ABLATION = _BOTH.format("Reproduced", "subclone", "not")
_CONTROL = _BOTH.format("Yes", "it", "no")

CLAIMS = (
    Claim(
        "Subcloning reaches an early quality about four times sooner",
        "Fig. 1, 9, 10",
        "fig01_09_10_convergence",
        "4 times (70 % top-1 after 10 epochs instead of 40)",
        early_speed_up,
        "Reproduced where the ratio is at least 4 and its interval above 2, so that a wide one does not help; partly "
        "where the interval is above 1. " + _SEEN,
    ),
    Claim(
        "It is better at the end of a limited budget",
        "Fig. 1, 9, 10",
        "fig01_09_10_convergence",
        "yes, in the plots",
        better_end,
        "Reproduced where the difference at the end of the budget is in favour, with its interval.",
    ),
    Claim(
        "Its best learning rate and weight decay are far lower",
        "Fig. 11, Table 1",
        "fig11_tuning",
        "ViT: LR 0.0001 against 0.002, WD 0.005 against 0.2; GPT-2: LR 0.0001 for both, WD 0.001 against 0.1",
        lower_optimum,
        "Reproduced where both are at most a quarter of random's; partly where one is lower and the other no higher.",
    ),
    Claim(
        "Scaling the weights by sqrt(d/d') helps",
        "Fig. 12",
        "fig12_scaling",
        "clearly, in the plot",
        without("subclone_no_scaling"),
        _ABLATION,
    ),
    Claim(
        "Keeping the important neurons is better than keeping the first",
        "Fig. 14",
        "fig14_reordering",
        "notably, in the plot",
        without("subclone_no_reordering"),
        _ABLATION,
    ),
    Claim(
        "A nearer parent is better than a bigger one",
        "Fig. 13",
        "fig13_parent",
        "yes, in the plot: GPT-2 large before XL",
        nearer_parent,
        "Judged as the two ablations, with the bigger parent's child in the place of the ablation.",
    ),
    Claim(
        "The middle blocks are the cheapest to remove or duplicate",
        "Fig. 2",
        "fig02_blocks",
        "yes, in the plot",
        middle_blocks,
        "Reproduced where removing, and duplicating, cost least in the middle: at no end, and less than the ends do.",
    ),
    Claim(
        "Magnitudes of neurons are correlated between layers",
        "Fig. 3",
        "fig03_05_06_08_scores",
        "strongly, in the plot",
        correlated_layers,
        "Reproduced where the mean rank correlation of two blocks' magnitudes is 0.7 or more; partly from 0.3.",
    ),
)


BEYOND = (
    Claim(
        "Principal directions of the residual stream are better than important neurons",
        "Ours",
        "principal",
        "does not have it",
        better_than("subclone", "principal"),
        _CONTROL,
    ),
    Claim(
        "So they are at other shapes and budgets, with other parents, and with distillation",
        "Ours",
        "cases",
        "does not have it",
        better_in_all_cases,
        "Yes where it is better at the end, with its interval, in every case; partly where in most, and worse in none.",
    ),
    Claim(
        "Important units are better than evenly spaced ones",
        "Ours",
        "controls",
        "does not compare them",
        better_than("uniform"),
        _CONTROL,
    ),
    Claim(
        "Important units are better than random ones",
        "Ours",
        "controls",
        "does not compare them",
        better_than("random_subset"),
        _CONTROL,
    ),
    Claim(
        "Important units are better than the least important ones",
        "Ours",
        "controls",
        "does not compare them",
        better_than("least_important"),
        _CONTROL,
    ),
    Claim(
        "One choice of units for the whole network is better than a new one for each tensor",
        "Ours",
        "controls",
        "takes it for granted",
        better_than("inconsistent"),
        _CONTROL,
    ),
    Claim(
        "A subcloned child is better than random weights of its weights' spread",
        "Ours",
        "controls",
        "takes it for granted",
        better_than("spread_only"),
        _CONTROL,
    ),
    Claim(
        "Weights in their places are better than the same weights shuffled",
        "Ours",
        "controls",
        "takes it for granted",
        better_than("shuffled"),
        _CONTROL,
    ),
)

# Scale, command, and figures, of what would add to the evidence.
NOT_YET_RUN = (
    ("small", "experiments/gpt2_packages/run.sh", "Fig. 1, 10, 11, 12, 14; ours"),
    ("small", "experiments/vit_cifar10/run.sh data=cifar10_folder", "Fig. 1, 9, 11, 12, 14; ours"),
    ("small", "experiments/gpt2_books/run.sh", "Fig. 1, 10, 11, 12, 14; ours"),
    ("small", "experiments/gpt2_books_depth/run.sh", "Fig. 1, 10, 12, 14; ours"),
    *(
        ("paper", f"python -m subcloning.submit cluster=mine experiment={experiment}", figures)
        for experiment, figures in (
            ("fig09_vit", "Fig. 1, 9"),
            ("fig10_gpt2", "Fig. 1, 10"),
            ("fig11_lr_wd", "Fig. 11, Table 1"),
            ("fig12_scaling", "Fig. 12"),
            ("fig13_parent", "Fig. 13"),
            ("fig14_reordering", "Fig. 14"),
        )
    ),
    *(
        ("paper", f"python -m subcloning.analysis {figure} experiment={experiment}", f"Fig. {int(figure[3:])}")
        for figure in ("fig02", "fig03")
        for experiment in ("fig09_vit", "fig10_gpt2")
    ),
)
