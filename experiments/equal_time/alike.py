"""What do children become alike in as they are trained? Of the finished runs of an experiment: alike.csv of a study.

    python experiments/equal_time/alike.py equal_time_gpt2_stdlib > experiments/gpt2_stdlib/alike.csv   # [overrides]

For each case, pairs of trained models on the first 32 batches of the validation data: a subclone and a principal child
of the same seed, children of different seeds (what chance alone makes of it), each with one of random weights, and with
the parent. kl: nats between their predictions, mean of both directions. agree: share of positions where both think the
same most likely. cka: linear CKA (Kornblith et al., arXiv 1905.00414) of what their blocks put out, mean over blocks;
it does not mind another basis. And of children moved: how far their weights went from where they began, as a share of
their norm there. Means over seeds, or pairs of them.
"""

import sys
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from safetensors.torch import load_file
from torch import Tensor, nn

from subcloning.errors import SubcloningError
from subcloning.method.anatomy import Anatomy
from subcloning.method.observe import Call, hooked
from subcloning.method.scoring import score
from subcloning.resolvers import composed
from subcloning.training.initialise import child_of, subcloned
from subcloning.training.protocols import data_of, parent_of
from subcloning.training.run import quieten

INITS, SEEDS, BATCHES = ("random", "subclone", "principal"), (0, 1, 2), 32
Seen = tuple[Tensor, list[Tensor]]  # log-probabilities (positions, classes), and (positions, width) of each block


def config(experiment: str, *overrides: str) -> DictConfig:
    return composed(f"experiment={experiment}", "optim.lr=1e-3", *overrides)  # no rate is looked up in a grid


def trained(cfg: DictConfig) -> nn.Module:
    """The child of a finished run of `cfg`, whatever its learning rate."""
    folder, seed = Path(cfg.run_dir).parent, cfg.seed
    found = [file.parent for file in folder.glob(f"lr*_seed{seed}/summary.json")]
    if len(found) != 1:
        raise SubcloningError(f"{folder} has {len(found)} finished runs of seed {seed}, expected one: run them first")
    child = child_of(parent_of(cfg), cfg)
    child.load_state_dict(load_file(found[0] / "model" / "model.safetensors"), strict=False)  # a tied head is not there
    return child


def seen(model: nn.Module, cfg: DictConfig) -> Seen:
    """What `model` predicts, and what its blocks put out."""
    parent, data = parent_of(cfg), data_of(cfg)
    module = parent.module(model, OmegaConf.to_container(cfg.optim, resolve=True), data, fused=False)
    anatomy = Anatomy(model)
    template = anatomy.family.probe("residual", model).module
    blocks = [template.format(block=i) for i in range(anatomy.depth)]
    outputs: dict[str, list[Tensor]] = {name: [] for name in (*blocks, "logits")}

    def keep(call: Call) -> None:
        outputs[call.name].append(call.output.detach().flatten(0, -2).float())

    def keep_logits(_, __, output) -> None:
        outputs["logits"].append(getattr(output, "logits", output).detach().flatten(0, -2).float())

    trainer = Trainer(
        **instantiate(cfg.trainer), limit_val_batches=BATCHES, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    handle = model.register_forward_hook(keep_logits)
    with hooked(model, [(name, keep) for name in blocks]):
        trainer.validate(module, data, verbose=False)
    handle.remove()
    return torch.cat(outputs["logits"]).log_softmax(-1), [torch.cat(outputs[name]) for name in blocks]


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of (positions, width) and (positions, other width)."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def compare(one: Seen, other: Seen) -> dict[str, float]:
    (p, xs), (q, ys) = one, other
    kl = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2
    return {
        "kl": float(kl),
        "agree": float((p.argmax(-1) == q.argmax(-1)).float().mean()),
        "cka": sum(map(cka, xs, ys)) / len(xs),
    }


def moved(child: nn.Module, cfg: DictConfig) -> float:
    """How far the weights of the trained `child` are from where the run of `cfg` began."""
    parent, data = parent_of(cfg), data_of(cfg)
    begun, mother = child_of(parent, cfg), parent.trained()
    scores = score(mother, data.scoring_batches(), stream=cfg.init.select == "principal")
    subcloned(cfg.init, mother, begun, scores, cfg.seed, data)
    pairs = list(zip(begun.parameters(), child.parameters(), strict=True))
    away, begin = (
        [float(x.detach().norm() ** 2) for x in xs] for xs in ([new - old for old, new in pairs], dict(pairs))
    )
    return (sum(away) / sum(begin)) ** 0.5


def alike(experiment: str, *overrides: str) -> pd.DataFrame:
    """Columns: case, pair, kl, agree, cka, moved."""
    quieten()
    plain = config(experiment, "init=random", *overrides)
    cases = [name for name, case in plain.cases.items() if not case.get("distill")]
    mother = seen(parent_of(plain).trained(), plain)
    rows = []
    for case in cases:
        configs = {
            (init, seed): config(experiment, f"case={case}", f"init={init}", f"seed={seed}", *overrides)
            for init, seed in product(INITS, SEEDS)
        }
        children = {run: trained(cfg) for run, cfg in configs.items()}
        views = {run: seen(child, configs[run]) for run, child in children.items()}

        def add(pair: str, found: Iterable[dict[str, float]], case: str = case) -> None:
            rows.append({"case": case, "pair": pair, **pd.DataFrame(found).mean().round(4).to_dict()})

        def between(one: str, other: str, views: dict = views) -> list[dict[str, float]]:
            if one == other:
                return [compare(views[one, a], views[one, b]) for a, b in combinations(SEEDS, 2)]
            return [compare(views[one, seed], views[other, seed]) for seed in SEEDS]

        for one, other in combinations(INITS, 2):
            add(f"{one}, {other}", between(one, other))
        for init in INITS:
            add(f"{init}, {init}", between(init, init))
            add(f"{init}, parent", [compare(views[init, seed], mother) for seed in SEEDS])
        for init in INITS[1:]:
            add(init, [{"moved": moved(children[init, seed], configs[init, seed])} for seed in SEEDS])
    return pd.DataFrame(rows)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    alike(*sys.argv[1:]).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
