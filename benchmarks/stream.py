"""A parent larger than the memory it is given: `subclone --stream` on a Llama-shaped checkpoint of random weights.

    python benchmarks/stream.py FOLDER          makes the checkpoint there (13.5 GB), and two children of it
    python benchmarks/stream.py FOLDER --small  the same at a hundredth of the size

The scores are drawn, too: what is measured is surgery. Each child is made in a process of its own, whose memory is read
every 50 ms: `anonymous` is what it holds, `mapped` adds the pages of files, which the system may take back.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from subcloning import Scores
from subcloning.method.anatomy import Anatomy
from subcloning.method.shards import INDEX, Shards

LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 4, "num_hidden_layers": 8}
BLOCKS = 16  # of the child; it has half the width


def make(folder: Path, sizes: dict) -> None:
    """A file for each block, and one for the rest."""
    config = LlamaConfig(**sizes, vocab_size=32_000, dtype=torch.bfloat16, architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    anatomy = Anatomy(model)
    for name, tensor in anatomy.tensors.items():
        parts.setdefault(f"model-{anatomy.blocks[name]}.safetensors", {})[name] = tensor
    for file, tensors in parts.items():
        if not (folder / file).exists():
            made = {
                name: torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(
                    1.0 * (tensor.ndim == 1), 0.02, generator=generator
                )
                for name, tensor in tensors.items()
            }
            save_file(made, folder / file, metadata={"format": "pt"})
    where = {name: file for file, tensors in parts.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def draw(folder: Path, sizes: dict) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    anatomy = Shards(folder).anatomy(model)
    generator = torch.Generator().manual_seed(0)
    sums = {
        f"{axis}.{block}": torch.rand(1, anatomy.size(axis, block) or 0, 1, generator=generator, dtype=torch.float64)
        for axis in anatomy.family.probes
        for block in range(anatomy.depth)
    }
    width = sizes["hidden_size"]
    data = torch.randn(2 * width, width, generator=generator) * torch.logspace(0, -2, width)
    sums["stream"] = (data.T @ data).double() / len(data)
    Scores(sums, dict.fromkeys(sums, 1), anatomy.fingerprint).save(folder / "scores")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds, and the largest anonymous and resident memory in GiB, of a process."""
    peak = {"RssAnon": 0, "VmRSS": 0}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def watch():
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except (OSError, ValueError):
                return
            for line in lines:
                if (key := line.partition(":")[0]) in peak:
                    peak[key] = max(peak[key], int(line.split()[1]))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.wait() == 0, command
    watcher.join()
    return time.perf_counter() - begin, peak["RssAnon"] / 2**20, peak["VmRSS"] / 2**20


def read(folder: Path) -> float:
    begin = time.perf_counter()
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**24):
                pass
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    sizes = SMALL if args.small else LARGE
    parent = args.folder / "parent"
    parent.mkdir(parents=True, exist_ok=True)
    make(parent, sizes)
    if not (parent / "scores").exists():
        draw(parent, sizes)
    bytes_ = sum(file.stat().st_size for file in parent.glob("*.safetensors"))
    print(f"parent: {bytes_ / 2e9:.2f} billion parameters, {bytes_ / 2**30:.1f} GiB; to read it: {read(parent):.0f} s")
    for rule in ("importance", "principal"):
        out = args.folder / rule
        command = [sys.executable, "-m", "subcloning.tool", str(parent), str(out), "--width", "0.5", "--stream"]
        command += [
            "--depth",
            str(BLOCKS if not args.small else 4),
            "--select",
            rule,
            "--scores",
            str(parent / "scores"),
        ]
        seconds, anonymous, resident = measured(command)
        size = sum(file.stat().st_size for file in out.glob("model*.safetensors"))
        print(
            f"{rule}: child of {size / 2e9:.2f} billion parameters in {seconds:.0f} s, memory {anonymous:.2f} GiB, "
            f"with mapped pages {resident:.2f} GiB; to read the parent: {read(parent):.0f} s"
        )


if __name__ == "__main__":
    main()
