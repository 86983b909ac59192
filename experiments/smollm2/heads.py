"""Fewer heads or smaller ones? Of SmolLM2-135M, before any training: experiments/smollm2/heads.csv.

    python experiments/smollm2/heads.py FOLDER TRAIN.txt VALIDATION.txt      # as for untrained.py

All else of the parent stays: a third or two thirds of the heads, or all at a half or a quarter of their size.
"""

import sys
from pathlib import Path

import pandas as pd
from transformers import AutoModelForCausalLM, AutoTokenizer
from untrained import child_of, loss_of, sequences

from subcloning import apply_plan, make_plan, score
from subcloning.files import atomic

SHAPES = {
    "6 of 9 heads": {"width": 1.0, "heads": 6},
    "3 of 9 heads": {"width": 1.0, "heads": 3},
    "heads of 32": {"head_size": 32},
    "heads of 16": {"head_size": 16},
}


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    folder, train, validation = map(Path, sys.argv[1:])
    parent = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = sequences(tokenizer, validation, 48)
    scores = score(parent, sequences(tokenizer, train, 128).split(8))
    rows = []
    for name, shape in SHAPES.items():
        child = child_of(parent, shape)
        plan = make_plan(parent, child, scores, thin_heads="head_size" in shape)
        for factor in (True, False):
            loss = loss_of(apply_plan(plan, parent, child, scale=factor), tokens)
            rows.append({"heads": name, "parameters": child.num_parameters(), "factor": factor, "loss": round(loss, 3)})
            print(rows[-1], flush=True)
    with atomic(Path(__file__).with_suffix(".csv")) as file:
        pd.DataFrame(rows).to_csv(file, index=False)


if __name__ == "__main__":
    main()
