"""The parent and its children side by side, by plain transformers: experiments/minilm/encoders.csv.

    MINILM=... TEXTS=... python experiments/minilm/encoders.py parent=FOLDER random=FOLDER subclone=FOLDER

FOLDER: as transformers saves them. Sizes; how well each finds the other half of the study's held-out paragraphs; how
well its similarities go with the first one's (rank correlation); seconds for a thousand texts of 64 tokens, one thread.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from transformers import AutoModel

from subcloning.files import atomic
from subcloning.resolvers import composed
from subcloning.training.protocols import data_of

BATCH, TIMES = 50, 5


def timed(model, texts: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(vectors of length 1, seconds for a thousand texts)"""
    began = time.perf_counter()
    states = torch.cat([model(some).last_hidden_state.mean(1) for some in texts.split(BATCH)])
    return F.normalize(states, dim=-1), (time.perf_counter() - began) * 1000 / len(texts)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    models = dict(model.split("=", 1) for model in parser.parse_args().models)
    torch.set_num_threads(1)
    halves = data_of(composed("experiment=minilm", "optim.lr=1")).validation
    first, second = halves.unbind(1)
    loaded = {name: AutoModel.from_pretrained(folder).eval() for name, folder in models.items()}
    # In turns, so that what else the machine does is shared; the first round warms up.
    seconds = pd.DataFrame([{name: timed(m, first)[1] for name, m in loaded.items()} for _ in range(TIMES + 1)])[1:]
    rows, wanted = [], None
    for name, model in loaded.items():
        mine, other = timed(model, first)[0], timed(model, second)[0]
        cosines = mine @ other.T
        nearer = (cosines > cosines.diag()[:, None]).sum(1)
        pairs = (mine @ mine.T)[*torch.triu_indices(len(mine), len(mine), 1)]
        wanted = pairs if wanted is None else wanted
        count = sum(p.numel() for p in model.parameters())
        row = {"model": name, "parameters": count, "embeddings": model.get_input_embeddings().weight.numel()}
        row |= {"recall": (nearer < 1).float().mean().item(), "recall_10": (nearer < 10).float().mean().item()}
        row |= {"correlation": spearmanr(pairs, wanted).statistic, "seconds": seconds[name].median()}
        rows.append(row)
        print(row, flush=True)
    with atomic(Path(__file__).with_name("encoders.csv")) as file:
        pd.DataFrame(rows).to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
