"""A study at home, from its parent to its table: `python -m subcloning.demo digits` or `gpt2_demo`.

Says first about how long it will take here, and last how the table compares with the committed one. All is written
where the runs are, the table and figure to runs/digits/report; experiments/ stays as it is. What is done is not done
again. Further arguments are overrides of every run.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import joblib
import torch
from torch import nn


class Demo(NamedTuple):
    """study: whose committed table is compared. parent: minutes that it takes on `CPU`. children: minutes of processor
    time there, of all together. why: the tables differ."""

    study: str
    parent: float
    children: float
    why: str


# Measured on this CPU, where `benchmark` takes so many seconds; the demo ends by printing what it took.
CPU, SECONDS = "an Intel Xeon (Emerald Rapids, 2.3 GHz)", 0.4
ROUNDING = "a CPU that rounds otherwise gives another parent from the same seed, and other children from that"
DEMOS = {
    "digits": Demo("digits", 0.8, 6.7, f"Where they differ, it is since {ROUNDING}."),
    "gpt2_demo": Demo(
        "gpt2_stdlib",
        3.1,
        2.9,
        "They differ since the committed parent saw three times as many tokens, and its children twice as many, over "
        f"three seeds; and since {ROUNDING}.",
    ),
}


def benchmark() -> float:
    """Seconds of processor time that some training steps of a small transformer take in one thread."""
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    model, batch = nn.TransformerEncoder(layer, 6), torch.randn(64, 17, 64)
    optimiser = torch.optim.AdamW(model.parameters())
    taken = []
    for _ in range(4):  # the first is slower than all others
        began = time.process_time()
        for _ in range(10):
            optimiser.zero_grad()
            model(batch).square().mean().backward()
            optimiser.step()
        taken.append(time.process_time() - began)
    return min(taken)


def python(module: str, *arguments: str | Path) -> None:
    """Run a command of this package, and end with it where it fails."""
    if code := subprocess.call([sys.executable, "-m", f"subcloning.{module}", *map(str, arguments)]):
        sys.exit(code)


def processor_time() -> float:
    """Minutes, of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=DEMOS)
    parser.add_argument("overrides", nargs="*", help="of every run, as for subcloning.train")
    args = parser.parse_args()
    name, demo = args.experiment, DEMOS[args.experiment]
    cores, seconds = joblib.cpu_count(), benchmark()
    slower = seconds / SECONDS
    minutes = slower * (demo.parent + demo.children / cores)
    print(f"About {minutes:.0f} minutes on the {cores} cores here, at {slower:.1f} times the processor time of {CPU}.")
    print("What was done before is not done again.", flush=True)
    began = time.monotonic()
    python("train", f"experiment={name}_parent", *args.overrides)
    parent, before = (time.monotonic() - began) / 60, processor_time()
    python("train", "-m", f"experiment={name}", "hydra/launcher=local", *args.overrides)
    children = processor_time() - before
    report = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / name / "report"
    python("collect", name, "--into", report)
    print(f"\nHere, in {report}:\n", flush=True)
    python("analysis", demo.study, "--folder", report)
    committed = Path("experiments") / demo.study
    table = (committed / "table.md").read_text()
    print(f"\nCommitted, in {committed}:\n\n{table}\n{demo.why}")
    parts = f"parent {parent:.1f} minutes, children {children:.1f} of processor time, benchmark {seconds:.2f} s"
    print(f"It took {processor_time():.1f} minutes of processor time ({parts}).")


if __name__ == "__main__":
    main()
