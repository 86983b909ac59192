"""Is sqrt(parent fan-in / child fan-in) the right factor on Llama? How far each layer's outputs spread before training.

    python experiments/smollm2/factor.py FOLDER TRAIN.txt VALIDATION.txt

A layer's spread: the root of the variance of its outputs over all positions, averaged over units; of the child's over
that of the same units of its parent's, with the factor and without, in experiments/smollm2/factor.csv. And the loss
where each layer is scaled by measurement instead (`match_spread`, for units chosen by importance). Data as for
untrained.py.
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from untrained import SHAPES, child_of, loss_of, sequences

from subcloning import Plan, apply_plan, make_plan, score
from subcloning.files import atomic
from subcloning.method.anatomy import Anatomy
from subcloning.method.controls import match_spread
from subcloning.method.matching import source_name
from subcloning.method.observe import Call, observe
from subcloning.method.surgery import transplant

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def outputs_of(model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer -> (positions, units), of all layers inside blocks."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, call: Call) -> None:
        found[name] = call.rows(call.output)

    names = [name for name, _ in model.named_modules() if name.endswith(LAYERS)]
    observe(model, [(name, partial(keep, name)) for name in names], [tokens])
    return found


def spreads(plan: Plan, parent, child, wanted: dict[str, torch.Tensor], tokens: torch.Tensor) -> list[dict]:
    """The child's spread over its parent's, of each layer."""
    p, c = Anatomy(parent), Anatomy(child)
    rows = []
    for name, found in outputs_of(child, tokens).items():
        outputs, maps = wanted[source_name(c, f"{name}.weight", plan.blocks).removesuffix(".weight")], plan.maps
        if name.endswith(("o_proj", "down_proj")) and plan.rotates("residual"):
            kept = (outputs @ maps["residual"].float().T).var(0)
        else:
            kept = torch.empty(found.shape[1])
            layout = c.layouts[f"{name}.weight"].outputs
            transplant(outputs.var(0), kept, layout, plan.maps_of(f"{name}.weight", c), p.inner)
        block = int(name.split(".")[2])
        rows.append({"layer": name.split(".")[-1], "block": block, "of": plan.blocks[block]})
        rows[-1]["spread"] = float((found.var(0).mean() / kept.mean()).sqrt())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "train", "validation"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    parent = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    tokens = sequences(tokenizer, args.validation, 48)
    batches = sequences(tokenizer, args.train, 128).split(8)
    scores = score(parent, batches, stream=True)
    wanted = outputs_of(parent, tokens[:8])
    rows = []
    for shape in ("2/3 width", "2/3 width, 1/2 depth"):
        for select in ("importance", "principal"):
            plan = make_plan(parent, child := child_of(parent, SHAPES[shape]), scores, select=select)
            for factor in (True, False):
                apply_plan(plan, parent, child, scale=factor)
                found = spreads(plan, parent, child, wanted, tokens[:8])
                rows += [{"shape": shape, "init": select, "factor": factor, **row} for row in found]
                print(shape, select, factor, loss_of(child, tokens))
                print(pd.DataFrame(found).groupby("layer", sort=False)["spread"].describe().round(2), flush=True)
            if not plan.rotated:
                apply_plan(plan, parent, child, scale=False)
                print(shape, select, "measured", loss_of(match_spread(plan, parent, child, batches[0]), tokens))
    with atomic(Path(__file__).with_name("factor.csv")) as file:
        pd.DataFrame(rows).to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
