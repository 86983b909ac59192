"""Is importance more than keeping the few massive neurons of the stream? 2/3 of SmolLM2's width, before any training.

    python experiments/smollm2/massive.py FOLDER TRAIN.txt VALIDATION.txt

Neurons of the stream are chosen by importance, evenly, or evenly once the K most important ones are kept, heads and
hidden units by importance or evenly: experiments/smollm2/massive.csv. Arguments and data as for untrained.py.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from untrained import SHAPES, child_of, loss_of, sequences

from subcloning import apply_plan, make_plan, score
from subcloning.files import atomic

MASSIVE = (1, 3, 8, 32)


def evenly(ranking: torch.Tensor, kept: int, size: int) -> torch.Tensor:
    """(size,) the `kept` most important neurons, and the others evenly spaced between all that are left."""
    first = ranking.argsort(descending=True)[:kept]
    rest = torch.tensor(sorted({*range(len(ranking))} - {*first.tolist()}))
    return torch.cat([first, rest[torch.arange(size - kept) * len(rest) // (size - kept)]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "train", "validation"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    parent = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    tokens = sequences(tokenizer, args.validation, 48)
    scores = score(parent, sequences(tokenizer, args.train, 128).split(8))
    rows = []
    for units in ("importance", "uniform"):
        for stream in ("importance", "uniform", *MASSIVE):
            rule = stream if isinstance(stream, str) else "uniform"
            child = child_of(parent, SHAPES["2/3 width"])
            plan = make_plan(parent, child, scores, select={"residual": rule, "head": units, "hidden": units})
            if not isinstance(stream, str):
                chosen = evenly(scores.of("residual"), stream, child.config.hidden_size)
                plan = replace(plan, maps=plan.maps | {"residual": chosen})
            loss = loss_of(apply_plan(plan, parent, child), tokens)
            what = stream if isinstance(stream, str) else f"{stream} massive, rest uniform"
            rows.append({"stream": what, "heads_and_hidden": units, "loss": round(loss, 3)})
            print(rows[-1], flush=True)
    with atomic(Path(__file__).with_name("massive.csv")) as file:
        pd.DataFrame(rows).to_csv(file, index=False)


if __name__ == "__main__":
    main()
