"""Children of SmolLM2-135M before any training: experiments/smollm2/untrained.csv.

    python experiments/smollm2/untrained.py FOLDER TRAIN.txt VALIDATION.txt

FOLDER: the parent as transformers saves it (dequantise.py). Text: any; units are scored on 128
sequences of 256 tokens, the loss is of 48.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from subcloning import apply_plan, make_plan, score
from subcloning.files import atomic
from subcloning.method.axes import family_of

SHAPES = {
    "2/3 width": {"width": 2 / 3},
    "2/3 width, 1/2 depth": {"width": 2 / 3, "depth": 0.5},
    "1/2 depth": {"depth": 0.5},
}


def sequences(tokenizer, file: Path, count: int) -> torch.Tensor:
    """(count, 256) tokens from the beginning of `file`."""
    with file.open(encoding="utf-8") as text:
        ids = tokenizer(text.read(2000 * count))["input_ids"]
    return torch.tensor(ids[: 256 * count]).view(count, 256)


@torch.no_grad()
def loss_of(model, tokens: torch.Tensor) -> float:
    losses = [model(input_ids=some, labels=some, use_cache=False).loss.item() for some in tokens.split(8)]
    return sum(losses) / len(losses)


def child_of(parent, shape: dict, **changes):
    torch.manual_seed(0)
    config = type(parent.config).from_dict(
        parent.config.to_dict() | family_of(parent).resized(parent, **shape) | changes
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    args = parser.parse_args()
    parent = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    tokens = sequences(tokenizer, args.validation, 48)
    scores = score(parent, sequences(tokenizer, args.train, 128).split(8), stream=True)
    rows = []

    def add(shape: str, init: str, factor: bool, model) -> None:
        rows.append({"shape": shape, "init": init, "factor": factor, "loss": round(loss_of(model, tokens), 3)})
        print(rows[-1], flush=True)

    add("parent", "-", False, parent)
    for name, shape in SHAPES.items():
        add(name, "random", False, child_of(parent, shape))
        for select in ("uniform", "importance", "principal"):
            plan = make_plan(parent, child := child_of(parent, shape), scores, select=select)
            for factor in (True, False) if "width" in name else (True,):
                add(name, select, factor, apply_plan(plan, parent, child, scale=factor))
                if plan.rotated:
                    # As before the gain was kept: of an even gain it makes no difference how the stream is turned.
                    norm = child.model.norm.weight
                    gain, stretch = parent.model.norm.weight.mean(), (plan.energy * 576 / len(norm)) ** 0.5
                    norm.data.fill_(gain * (stretch if factor else 1))
                    add(name, "principal, mean gain", factor, child)
        if "width" in name:
            free = child_of(parent, shape, tie_word_embeddings=False)
            plan = make_plan(parent, free, scores, select="principal")
            add(name, "principal, untied head", True, apply_plan(plan, parent, free))
    with atomic(Path(__file__).with_name("untrained.csv")) as file:
        pd.DataFrame(rows).to_csv(file, index=False)


if __name__ == "__main__":
    main()
