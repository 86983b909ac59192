"""Peers' own code and ours on the same parent and shape: seconds, memory, what loads the result, and how it trains.

    pip install torch-pruning==1.6.1 mergekit==0.1.5        # of no extra: nothing else here needs them
    experiments/digits/run.sh parent                        # the parent: a ViT for digits
    python benchmarks/peers.py width                        # half its width; then 66 trainings of a quarter of a minute
    python benchmarks/peers.py cost                         # half the width of a ViT-B/16: seconds and memory
    python benchmarks/peers.py depth FOLDER                 # half the blocks of the Llama in FOLDER, such as SmolLM2

Width: Torch-Pruning (Fang et al., arXiv 2301.12900) by the group norm of weights, which is pruning by magnitude, and by
Taylor scores; evenly spaced units (weight selection, arXiv 2311.18823), and ours. All children are plain timm models of
one shape, and are trained alike, each at its own best of four learning rates. Depth: mergekit (Goddard et al., arXiv
2403.13257) takes slices of blocks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import AutoModelForCausalLM

from subcloning import child_of, score, subclone
from subcloning.analysis.runs import read_runs

HERE = Path(__file__).parent
RUNS = Path(os.environ.get("SUBCLONING_RUNS", "runs"))
SHAPE = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "depth": 6, "mlp_ratio": 4.0}
FOLDERS = {"mergekit": "mergekit", "subclone": "subclone", "subclone --stream": "stream"}
RATES, TUNED_ON, SEEDS = (1e-3, 2e-3, 4e-3, 8e-3), (100, 101), (0, 1, 2)


def parent_of_digits() -> Any:
    (file,) = RUNS.glob("digits_parent/*/*/model/model.safetensors")
    model = timm.create_model("vit_tiny_patch16_224", **SHAPE, embed_dim=96, num_heads=6)
    model.load_state_dict(load_file(file))
    return model.eval()


def images(held_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """256 images that the parent was trained on, or the 450 that it was not, with labels: the digits study's split."""
    digits = load_digits()
    x, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(digits.target)
    train, validation = train_test_split(range(len(x)), test_size=450, random_state=0, stratify=labels)
    part = validation if held_out else train[:256]
    return x[part], labels[part]


Maker = Callable[[Any, torch.Tensor, torch.Tensor], Any]  # of a parent, images and their labels, a child


def pruned(importance: str) -> Maker:
    """Half of the width, the heads and the hidden units, by Torch-Pruning."""

    def make(model: Any, x: torch.Tensor, labels: torch.Tensor) -> Any:
        import torch_pruning as tp

        for block in model.blocks:
            block.attn.fused_attn = False  # which it cannot trace
        if importance == "taylor":
            F.cross_entropy(model(x), labels).backward()
        by = (
            tp.importance.GroupTaylorImportance()
            if importance == "taylor"
            else tp.importance.GroupMagnitudeImportance(2)
        )
        pruner = tp.pruner.BasePruner(
            model, x[:2], importance=by, pruning_ratio=0.5, ignored_layers=[model.head],
            num_heads={block.attn.qkv: block.attn.num_heads for block in model.blocks},
            prune_num_heads=True, head_pruning_ratio=0.5, prune_head_dims=False,
        )  # fmt: skip
        pruner.step()
        return model

    return make


def subcloned(**options: Any) -> Maker:
    def make(model: Any, x: torch.Tensor, labels: torch.Tensor) -> Any:
        child = child_of(model, width=0.5)
        scores = score(model, [x], stream=True) if options["select"] != "uniform" else None
        return subclone(model, child, scores=scores, **options)

    return make


CHILDREN: dict[str, Maker] = {
    "random": lambda model, x, labels: child_of(model, width=0.5),
    "torch_pruning_norm": pruned("norm"),
    "torch_pruning_taylor": pruned("taylor"),
    "uniform": subcloned(select="uniform"),
    "importance": subcloned(select="importance"),
    "principal": subcloned(select="principal"),
}


def train(case: str, *overrides: str) -> None:
    command = [sys.executable, "-m", "subcloning.train", "-m", "hydra/launcher=local", "logger=csv", "trainer=cpu"]
    subprocess.run([*command, "experiment=peers_digits", f"case={case}", *overrides], check=True)


def best(grid: pd.DataFrame, case: str) -> float:
    """The learning rate whose children end highest, on average over the seeds of tuning."""
    own = grid[grid["case"] == case]
    last = own[own["step"] == own["step"].max()]
    return float(last.groupby("lr")["val_accuracy"].mean().idxmax())


def width() -> None:
    (RUNS / "peers").mkdir(parents=True, exist_ok=True)
    rows = []
    for case, make in CHILDREN.items():
        torch.manual_seed(0)
        parent = parent_of_digits()
        begin = time.perf_counter()
        child = make(parent, *images())
        seconds = time.perf_counter() - begin
        plain: Any = timm.create_model("vit_tiny_patch16_224", **SHAPE, embed_dim=48, num_heads=3)
        plain.load_state_dict(child.state_dict())  # raises where the shape is not that of a plain model
        save_file(plain.state_dict(), RUNS / "peers" / f"{case}.safetensors")
        x, labels = images(held_out=True)
        with torch.no_grad():
            logits = plain.eval()(x)
        rows.append(
            {
                "case": case,
                "seconds": round(seconds, 2),
                "loss_before": round(float(F.cross_entropy(logits, labels)), 3),
                "accuracy_before": round(float((logits.argmax(-1) == labels).float().mean()), 3),
            }
        )
    cases = ",".join(CHILDREN)
    train(
        cases, "name=peers_digits_grid", f"optim.lr={','.join(map(str, RATES))}", f"seed={','.join(map(str, TUNED_ON))}"
    )
    collect("peers_digits_grid", "peers_grid")
    grid = read_runs(HERE / "peers_grid.csv")
    for row in rows:
        row["lr"] = best(grid, row["case"])
        train(row["case"], f"optim.lr={row['lr']}", f"seed={','.join(map(str, SEEDS))}")
    collect("peers_digits", "peers")
    runs = read_runs(HERE / "peers.csv")
    for row in rows:
        own = runs[runs["case"] == row["case"]]
        for epoch in (1, 5):
            row[f"after_{epoch}"] = round(float(own[own["epoch"] == epoch]["val_accuracy"].mean()), 4)
        end = own[own["epoch"] == own["epoch"].max()]["val_accuracy"]
        row |= {"at_the_end": round(float(end.mean()), 4), "range": f"{end.min():.4f} {end.max():.4f}"}
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "peers_width.csv", index=False)
    print(table.to_string(index=False))


def child_of_vit_b(case: str, file: Path) -> None:
    """In a process of its own: a ViT-B/16 with random weights, and its child into `file`."""
    torch.manual_seed(0)
    parent = timm.create_model("vit_base_patch16_224").eval()
    x, labels = torch.randn(16, 3, 224, 224), torch.randint(1000, (16,))
    save_file(CHILDREN[case](parent, x, labels).state_dict(), file)


def cost() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as there:
        for case in CHILDREN:
            file = Path(there) / f"{case}.safetensors"
            seconds, peak = measured([sys.executable, __file__, "child", case, str(file)])
            plain = timm.create_model("vit_base_patch16_224", embed_dim=384, num_heads=6)
            plain.load_state_dict(load_file(file))
            rows.append({"case": case, "seconds": round(seconds, 1), "memory_gib": round(peak, 2)})
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "peers_cost.csv", index=False)
    print(table.to_string(index=False))


def collect(name: str, stem: str) -> None:
    command = [sys.executable, "-m", "subcloning.collect", name, "--into", str(HERE), "--stem", stem]
    subprocess.run(command, check=True)


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident memory in GiB, of a program that does its work and ends."""
    begin, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begin, peak / 2**30


def depth(parent: Path) -> None:
    config = json.loads((parent / "config.json").read_text())
    blocks = config["num_hidden_layers"]
    kept = blocks // 2
    start = (kept + 1) // 2  # of the run in the middle that is lost, as in `make_plan`
    slices = [(0, start), (start + blocks - kept, blocks)]
    with tempfile.TemporaryDirectory() as there:
        out, recipe = Path(there), Path(there) / "recipe.yml"
        source = [{"sources": [{"model": str(parent), "layer_range": list(part)}]} for part in slices]
        recipe.write_text(json.dumps({"slices": source, "merge_method": "passthrough", "dtype": "float32"}))
        ours = [sys.executable, "-m", "subcloning.tool", str(parent)]
        commands = {
            "mergekit": [sys.executable, "-m", "mergekit.scripts.run_yaml", str(recipe), str(out / "mergekit")],
            "subclone": [*ours, str(out / "subclone"), "--depth", str(kept), "--select", "first"],
            "subclone --stream": [*ours, str(out / "stream"), "--depth", str(kept), "--select", "first", "--stream"],
        }
        rows = []
        for name, command in commands.items():
            seconds, peak = measured(command)
            rows.append({"tool": name, "seconds": round(seconds, 1), "memory_gib": round(peak, 2)})
        tensors = [load_all(out / name) for name in FOLDERS.values()]
        for row, found in zip(rows, tensors, strict=True):
            same = found.keys() == tensors[0].keys() and all(torch.equal(found[k], tensors[0][k]) for k in found)
            row["same_tensors"] = same
            _, found_out = AutoModelForCausalLM.from_pretrained(out / FOLDERS[row["tool"]], output_loading_info=True)
            row["loads"] = not any(found_out.values())
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "peers_depth.csv", index=False)
    print(table.to_string(index=False))


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("width", "cost", "depth", "child"))
    parser.add_argument("given", nargs="*")
    args = parser.parse_args()
    match args.what, args.given:
        case "width", []:
            width()
        case "cost", []:
            cost()
        case "depth", [folder]:
            depth(Path(folder))
        case "child", [name, file]:
            child_of_vit_b(name, Path(file))
        case _:
            parser.error(f"{args.what} does not take {args.given}")
