"""What a parent costs, and filling a child from it, in time of the child's own training: cost.csv of a study.

    python experiments/budgets/cost.py digits [overrides] > experiments/digits/cost.csv   # a minute

A row each for training the parent (its time per sample, times the samples that it was trained on), and for scoring,
planning and surgery of two init modes. `time` is in the study's own unit: for as many epochs, or tokens, the child
would be trained in these seconds. Steps of child and parent take turns, and medians are compared.
"""

import statistics
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from omegaconf import DictConfig

from subcloning.errors import SubcloningError
from subcloning.method.scoring import score
from subcloning.resolvers import composed
from subcloning.training.initialise import child_of, subcloned
from subcloning.training.protocols import data_of, parent_of

# Study -> the experiments of its child and of its parent.
PAIRS = {
    "digits": ("budgets_digits", "digits_parent"),
    "gpt2_stdlib": ("equal_time_gpt2_stdlib", "gpt2_stdlib_parent"),
    "vit_cifar10_cpu": ("budgets_vit_cifar10_cpu", "vit_cifar10_cpu_long_parent"),
    "gpt2_packages": ("budgets_gpt2_packages", "gpt2_packages_parent"),
}
INITS = ("subclone", "principal")
ROUNDS, STEPS = 5, 8


def config(experiment: str, *overrides: str) -> DictConfig:
    return composed(f"experiment={experiment}", "optim.lr=1e-3", *overrides)  # no rate is looked up in a grid


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def steps(model: torch.nn.Module, cfg: DictConfig, batch: torch.Tensor, loss: Callable) -> Callable[[], None]:
    """So many training steps of `model`, as a run takes them."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def work() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            (loss(model, batch) / len(batch)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip)
            optimiser.step()

    return work


def costs(study: str, *overrides: str) -> pd.DataFrame:
    """Columns: what, seconds, time. overrides: of both runs, the child's and the parent's."""
    if study not in PAIRS:
        raise SubcloningError(f"{study} has no pair of which budgets are compared: expected one of {', '.join(PAIRS)}")
    experiment, parents = PAIRS[study]
    cfg, of_parent = config(experiment, "init=subclone", *overrides), config(parents, *overrides)
    parent, data = parent_of(cfg), data_of(cfg)
    trained = parent.trained()
    batch = next(iter(data.scoring_batches()))[: data.batch_size]
    models = {"child": child_of(parent, cfg), "parent": parent.trained()}
    work = {name: steps(model.train(), cfg, batch, parent.scoring_loss) for name, model in models.items()}
    for steps_of in work.values():
        steps_of()  # warm
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, steps_of in work.items():
            taken[name].append(seconds(steps_of))
    per_sample = {name: statistics.median(times) / STEPS / len(batch) for name, times in taken.items()}
    spent = {"parent": per_sample["parent"] * parent_of(of_parent).workload(of_parent)}
    for init in INITS:
        init_cfg = config(experiment, f"init={init}").init

        def fill(init_cfg: DictConfig = init_cfg) -> None:
            scores = score(trained, data.scoring_batches(), stream=init_cfg.select == "principal")
            subcloned(init_cfg, trained, child_of(parent, cfg), scores, 0, data)

        spent[init] = statistics.median(seconds(fill) for _ in range(3))
    budget = cfg.optim.get("epochs") or cfg.optim.tokens
    per_second = budget / (per_sample["child"] * parent.workload(cfg))
    rows = [{"what": what, "seconds": round(s, 3), "time": float(f"{s * per_second:.4g}")} for what, s in spent.items()]
    return pd.DataFrame(rows)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    costs(*sys.argv[1:]).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
