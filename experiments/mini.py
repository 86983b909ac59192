"""All studies of mini scale, from parents to RESULTS.md: `make study-mini`. What is done is not done again.

Says before each step which it is, and about how long all that is left will take, by the pace so far. The studies run at
the settings in configs/experiment, whatever the grids find: on another CPU, which rounds otherwise, that may be others.
"""

import subprocess
import sys
import time

SWEEP = ["-m", "hydra/launcher=local", "logger=csv"]


def train(experiment: str, *options: str) -> list[str]:
    return ["subcloning.train", *options, f"experiment={experiment}"]


def collect(experiment: str, folder: str, stem: str = "runs") -> list[str]:
    return ["subcloning.collect", experiment, "--into", f"experiments/{folder}", "--stem", stem]


def decay(init: str, lr: str, *others: str) -> list[str]:
    return train("gpt2_stdlib_grid", *SWEEP, f"init={init}", f"optim.lr={lr}", f"optim.weight_decay={','.join(others)}")


def gaps(part: str, case: str, *options: str) -> list[str]:
    return train(f"cases_gpt2_stdlib{part}", *SWEEP, f"case={case}", *options)


PARTS = (
    "important_residual_only,important_head_only,important_hidden_only,uniform,score_rms,score_variance,score_taylor,"
    "score_branch,score_normalised,score_activation,embeddings_only,blocks_only,spread_only"
)
BETTER = "principal_taylor,principal_refit,principal_taylor_refit,principal_no_scaling,subclone_refit"
BLOCKS = "lose_first_blocks,lose_last_blocks,lose_uniform_blocks,lose_least_blocks,principal_uniform_blocks"
LOW = (  # at the lowest of three learning rates on digits
    "subclone,random_subset,important_head_only,important_hidden_only,score_taylor,score_activation,score_branch,"
    "score_variance,score_normalised,subclone_no_scaling,subclone_refit,principal_refit,principal_taylor_refit"
)
HIGH = "uniform,shuffled,spread_only,blocks_only,principal,principal_activation"  # at the highest
EDGE = "embeddings_only,inconsistent,least_important"  # at the higher of two learning rates: a third one
EQUAL = "two_thirds_width_3_blocks,five_sixths_width_2_blocks"
SHAPES = f"third_width,half_width,two_thirds_width,half_width_half_depth,{EQUAL},quarter_budget"
HIGHER = "optim.lr=4e-3,8e-3,1.6e-2"  # for half width on digits, where one seed chose badly
FOUR_SEEDS = "seed=100,101,102,103"
KEPT = "uniform,inconsistent,embeddings_only,shuffled,spread_only,principal_spread_only"
SHARE = ("distill.weight=0.9", "seed=0,1,2")  # the best one, on the study's seeds
EARLY = ("name=gpt2_stdlib_parent_early", "optim.tokens=409_600", "optim.warmup_tokens=40_960", "logger=csv")
MIDDLE = ("name=gpt2_stdlib_parent_middle", "optim.tokens=1_638_400", "optim.warmup_tokens=163_840", "logger=csv")

# Minutes on 2 cores, and the arguments of python -m.
STEPS = [
    (1, train("digits_parent", "logger=csv")),
    (0, collect("digits_parent", "digits", "parent")),
    (60, train("digits_grid", *SWEEP)),
    (0, collect("digits_grid", "digits", "grid")),
    (5, train("digits", *SWEEP)),
    (0, collect("digits", "digits")),
    (5, train("digits_big_parent", "logger=csv")),
    (0, collect("digits_big_parent", "fig13_parent", "digits_parent")),
    (4, train("fig13_digits_grid", *SWEEP)),
    (0, collect("fig13_digits_grid", "fig13_parent", "digits_grid")),
    (2, train("fig13_digits", *SWEEP)),
    (0, collect("fig13_digits", "fig13_parent", "digits")),
    (15, train("gpt2_stdlib_parent", "logger=csv")),
    (0, collect("gpt2_stdlib_parent", "gpt2_stdlib", "parent")),
    (25, train("gpt2_stdlib_grid", *SWEEP)),
    (2, decay("random", "2e-3", "0.01", "0.5")),
    (2, decay("subclone", "4e-3", "0.01", "0.5")),
    (2, decay("subclone_head_unscaled", "4e-3", "0.01", "0.5")),
    (2, decay("subclone_no_scaling", "4e-3", "0.01", "0.5")),
    (2, decay("subclone_no_reordering", "4e-3", "0.01", "0.5")),
    (0, collect("gpt2_stdlib_grid", "gpt2_stdlib", "grid")),
    (10, train("gpt2_stdlib", *SWEEP)),
    (0, collect("gpt2_stdlib", "gpt2_stdlib")),
    (6, train("gpt2_stdlib_depth", *SWEEP)),
    (0, collect("gpt2_stdlib_depth", "gpt2_stdlib_depth")),
    (28, train("gpt2_stdlib_big_parent", "logger=csv")),
    (0, collect("gpt2_stdlib_big_parent", "fig13_parent", "gpt2_stdlib_parent")),
    (6, train("fig13_gpt2_stdlib_grid", *SWEEP)),
    (2, train("fig13_gpt2_stdlib_grid", *SWEEP, "optim.lr=4e-3", "optim.weight_decay=0.01")),
    (0, collect("fig13_gpt2_stdlib_grid", "fig13_parent", "gpt2_stdlib_grid")),
    (3, train("fig13_gpt2_stdlib", *SWEEP)),
    (0, collect("fig13_gpt2_stdlib", "fig13_parent", "gpt2_stdlib")),
    (40, train("controls_digits_grid", *SWEEP)),
    (5, train("controls_digits_grid", *SWEEP, f"init={LOW}", "optim.lr=5e-4")),
    (4, train("controls_digits_grid", *SWEEP, f"init={HIGH}", "optim.lr=8e-3,1.6e-2")),
    (1, train("controls_digits_grid", *SWEEP, "init=principal_taylor", "optim.lr=8e-3")),
    (1, train("controls_digits_grid", *SWEEP, "init=principal_taylor_refit", "optim.lr=2.5e-4")),
    (0, collect("controls_digits_grid", "controls", "digits_grid")),
    (35, train("controls_digits", *SWEEP)),
    (0, collect("controls_digits", "controls", "digits")),
    (22, train("controls_gpt2_stdlib_grid", *SWEEP)),
    (2, train("controls_gpt2_stdlib_grid", *SWEEP, "init=principal", "optim.lr=1e-3,8e-3")),
    (1, train("controls_gpt2_stdlib_grid", *SWEEP, "init=spread_only,shuffled", "optim.lr=8e-3,1.6e-2")),
    (2, train("controls_gpt2_stdlib_grid", *SWEEP, f"init={EDGE}", "optim.lr=8e-3")),
    (0, collect("controls_gpt2_stdlib_grid", "controls", "gpt2_stdlib_grid")),
    (32, train("controls_gpt2_stdlib", *SWEEP)),
    (0, collect("controls_gpt2_stdlib", "controls", "gpt2_stdlib")),
    (2, train("gpt2_stdlib_parent", *EARLY)),
    (0, collect("gpt2_stdlib_parent_early", "gaps", "gpt2_stdlib_early_parent")),
    (5, train("gpt2_stdlib_parent", *MIDDLE)),
    (0, collect("gpt2_stdlib_parent_middle", "gaps", "gpt2_stdlib_middle_parent")),
    (3, gaps("_grid", "quarter_budget", "optim.lr=1e-3,2e-3,4e-3,8e-3")),
    (7, gaps("_grid", "quarter_budget", f"init={PARTS},{BETTER}")),
    (1, gaps("_grid", "quarter_budget", "init=spread_only,blocks_only", "optim.lr=8e-3,1.6e-2")),
    (1, gaps("_grid", "quarter_budget", "init=embeddings_only", "optim.lr=8e-3")),
    (5, gaps("_grid", "quarter_width", "optim.lr=2e-3,4e-3,8e-3,1.6e-2")),
    (3, gaps("_grid", "quarter_width", "init=random", "optim.lr=2e-3,4e-3,8e-3", "seed=101,102")),
    (4, gaps("_grid", "three_quarters_width", "init=subclone,principal")),
    (7, gaps("_grid", "half_width_half_depth", f"init=random,subclone,principal,{BLOCKS}")),
    (1, gaps("_grid", "three_quarters_width_2_blocks", "init=random")),
    (3, gaps("_grid", "three_quarters_width_2_blocks", "init=subclone,principal", "optim.lr=1e-3,2e-3,4e-3")),
    (1, gaps("_grid", "full_width_1_block", "init=random", "optim.lr=2e-3,4e-3,8e-3")),
    (1, gaps("_grid", "full_width_1_block", "init=subclone", "optim.lr=1e-3,2e-3,4e-3")),
    (3, gaps("_grid", "middle_parent", "init=subclone,principal", "optim.lr=2e-3,4e-3,8e-3")),
    (5, gaps("_grid", "early_parent", "init=subclone,principal", "optim.lr=2e-3,4e-3,8e-3,1.6e-2")),
    (2, gaps("_grid", "random_parent", "init=principal", "optim.lr=2e-3,4e-3,8e-3")),
    (1, gaps("_grid", "random_parent", "init=subclone")),
    (5, gaps("_grid", "fourfold_budget", "init=subclone")),
    (4, gaps("_grid", "fourfold_budget", "init=random", "optim.lr=1e-3,2e-3")),
    (5, gaps("_grid", "fourfold_budget", "init=principal", "optim.lr=1e-3,2e-3")),
    (0, collect("cases_gpt2_stdlib_grid", "gaps", "gpt2_stdlib_grid")),
    (11, gaps("", "quarter_budget", f"init=random,subclone,principal,{PARTS},{BETTER}")),
    (3, gaps("", "quarter_width")),
    (5, gaps("", "three_quarters_width", "init=subclone,principal")),
    (11, gaps("", "half_width_half_depth", f"init=random,subclone,principal,{BLOCKS}")),
    (4, gaps("", "three_quarters_width_2_blocks")),
    (2, gaps("", "full_width_1_block", "init=random,subclone")),
    (18, gaps("", "fourfold_budget")),
    (9, gaps("", "middle_parent,early_parent,random_parent", "init=subclone,principal")),
    (0, collect("cases_gpt2_stdlib", "gaps", "gpt2_stdlib")),
    (4, train("distill_gpt2_stdlib_grid", *SWEEP)),
    (0, collect("distill_gpt2_stdlib_grid", "gaps", "gpt2_stdlib_distilled_grid")),
    (5, train("distill_gpt2_stdlib", *SWEEP)),
    (0, collect("distill_gpt2_stdlib", "gaps", "gpt2_stdlib_distilled")),
    (6, train("distill_share_gpt2_stdlib", *SWEEP)),
    (2, train("distill_share_gpt2_stdlib", *SWEEP, "init=subclone,principal", "distill.temperature=2.0", *SHARE)),
    (1, train("distill_share_gpt2_stdlib", *SWEEP, "init=random", "distill.temperature=1.0", *SHARE)),
    (0, collect("distill_share_gpt2_stdlib", "gaps", "gpt2_stdlib_distilled_share")),
    (12, train("map_gpt2_stdlib", *SWEEP)),
    (0, collect("map_gpt2_stdlib", "principal", "gpt2_stdlib_map")),
    (1, train("digits_parent", "name=digits_parent_early", "optim.epochs=10", "logger=csv")),
    (0, collect("digits_parent_early", "gaps", "digits_early_parent")),
    (21, train("cases_digits_grid", *SWEEP)),
    (3, train("cases_digits_grid", *SWEEP, "case=half_width_half_depth", f"init={BLOCKS}")),
    (4, train("cases_digits_grid", *SWEEP, "case=half_width", f"init={KEPT}")),
    (3, train("cases_digits_grid", *SWEEP, "case=half_width", "init=subclone,principal", HIGHER, "seed=101,102,103")),
    (1, train("cases_digits_grid", *SWEEP, "case=half_width", "init=principal", "optim.lr=3.2e-2", FOUR_SEEDS)),
    (1, train("cases_digits_grid", *SWEEP, "case=random_parent", "init=spread_only,principal_spread_only")),
    (0, collect("cases_digits_grid", "gaps", "digits_grid")),
    (16, train("cases_digits", *SWEEP, f"case={SHAPES}")),
    (3, train("cases_digits", *SWEEP, "case=half_width_half_depth", f"init={BLOCKS}")),
    (4, train("cases_digits", *SWEEP, "case=half_width", f"init={KEPT}")),
    (6, train("cases_digits", *SWEEP, "case=early_parent,random_parent", "init=subclone,principal")),
    (2, train("cases_digits", *SWEEP, "case=random_parent", "init=spread_only,principal_spread_only")),
    (0, collect("cases_digits", "gaps", "digits")),
    (2, train("distill_digits_grid", *SWEEP)),
    (0, collect("distill_digits_grid", "gaps", "digits_distilled_grid")),
    (3, train("distill_digits", *SWEEP)),
    (0, collect("distill_digits", "gaps", "digits_distilled")),
    (12, train("map_digits", *SWEEP)),
    (0, collect("map_digits", "principal", "digits_map")),
    *(
        (1, ["subcloning.analysis", figure, f"experiment={experiment}", "--folder", "experiments"])
        for figure in ("fig02", "fig03")
        for experiment in ("digits", "gpt2_stdlib")
    ),
    (1, ["subcloning.analysis"]),
]


def main() -> None:
    began, planned = time.monotonic(), 0
    for number, (minutes, command) in enumerate(STEPS, 1):
        elapsed = (time.monotonic() - began) / 60
        pace = elapsed / planned if planned >= 5 else 1
        left = pace * sum(minutes for minutes, _ in STEPS[number - 1 :])
        print(f"\n[{number}/{len(STEPS)}] about {left:.0f} minutes left: {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        planned += minutes
    print("\nAll studies ran at the settings in configs/experiment. Where a grid found others here, make test fails.")


if __name__ == "__main__":
    main()
