"""Losses of the demo's runs, and how each model continues a sentence, by plain transformers: `continue.py FOLDER`."""

import argparse
import csv
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

SENTENCE = "The statement is used to"


def continued(folder: Path) -> str:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(SENTENCE, return_tensors="pt")
    found = model.generate(**tokens, max_new_tokens=24, do_sample=False, repetition_penalty=1.2)
    return " ".join(tokenizer.decode(found[0]).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the demo: parent, child and runs")
    place = parser.parse_args().folder
    print(f"parent: {continued(place / 'parent')}")
    for curve in sorted(place.glob("*/*/metrics.csv")):
        first, *_, last = csv.DictReader(curve.open())
        which = "child" if "whole" in curve.parts[-3] else "random weights"
        loss = f"loss {float(first['val_loss']):.2f} before training, {float(last['val_loss']):.2f} after"
        print(f"{which}, {loss} {last['tokens']} tokens: {continued(curve.parent / 'model')}")


if __name__ == "__main__":
    main()
