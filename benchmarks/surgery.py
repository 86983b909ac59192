"""Seconds and memory of scoring, planning and applying at full size, next to reading the parent from its file.

    .venv/bin/python benchmarks/surgery.py     (about 2 minutes on 2 CPU cores, 10 GiB of memory)

Weights are random: no step's cost depends on their values. All is measured in one process and one run; reading, and
planning and applying a selection, are medians of three. Memory is the peak of the process above what it held before the
step, by the kernel's own count (Linux only), with the C library told to give every freed megabyte back at once.
"""

import argparse
import ctypes
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from subcloning import apply_plan, make_plan, score

GIB = 2**30


def memory(key: str) -> int:
    """`VmRSS`, what this process holds now, or `VmHWM`, the most since the last reset; bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def measure(step: Callable, repeats: int = 1):
    """(result, median seconds, largest peak memory above the start in bytes)."""
    seconds, peaks = [], []
    for _ in range(repeats):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before, start = memory("VmRSS"), time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - start)
        peaks.append(memory("VmHWM") - before)
    return result, statistics.median(seconds), max(peaks)


def gpt2(layers: int, heads: int) -> torch.nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=64 * heads))


def vit(width: int, heads: int) -> torch.nn.Module:
    return timm.create_model("vit_base_patch16_224", embed_dim=width, num_heads=heads)


PAIRS = {
    "GPT-2 large to medium": (
        lambda: gpt2(36, 20),
        lambda: gpt2(24, 16),
        lambda: torch.randint(50257, (1, 1024)),
        "1 x 1,024 tokens",
    ),
    "ViT-B/16 to half width": (
        lambda: vit(768, 12),
        lambda: vit(384, 6),
        lambda: torch.randn(16, 3, 224, 224),
        "16 images",
    ),
}


def size(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def read_into(model: torch.nn.Module, file: Path) -> None:
    """Read weights into a model that exists, as apply writes into one: neither pays for fresh memory."""
    weights = load_file(file)  # maps the file; copying is what reads it
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def cold_read(model: torch.nn.Module, file: Path) -> float:
    """Seconds to read a file that has been dropped from the page cache."""
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measure(lambda: read_into(model, file))[1]


def benchmark(name: str) -> list[dict]:
    build_parent, build_child, make_batch, batch = PAIRS[name]
    parent, child = build_parent().eval(), build_child().eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "parent.safetensors"
        save_file({key: value.detach() for key, value in parent.named_parameters()}, file)
        _, cached, _ = measure(lambda: read_into(parent, file), repeats=3)
        cold = statistics.median(cold_read(parent, file) for _ in range(3))
    scores, scoring, scoring_peak = measure(lambda: score(parent, [make_batch()]))
    plan, planning, planning_peak = measure(lambda: make_plan(parent, child, scores), repeats=3)
    _, applying, applying_peak = measure(lambda: apply_plan(plan, parent, child), repeats=3)
    batch_again = make_batch()
    stream, scoring_stream, stream_peak = measure(lambda: score(parent, [batch_again], stream=True))
    rotation, rotating, rotating_peak = measure(lambda: make_plan(parent, child, stream, select="principal"))
    _, turning, turning_peak = measure(lambda: apply_plan(rotation, parent, child))
    largest = max(size([p]) for p in parent.parameters())
    print(f"{name}: parent {size(parent.parameters()) / GIB:.2f} GiB, child {size(child.parameters()) / GIB:.2f} GiB")
    spent = planning + applying
    print(
        f"  plan + apply over reading from disk: {spent / cold:.2f} (goal: below 1), from cache: {spent / cached:.2f}"
    )
    print(f"  apply's own memory over the parent's largest tensor: {applying_peak / largest:.2f} (goal: at most 1)")
    steps = {
        "read the parent's file, from disk": (cold, None),
        "read the parent's file, from the page cache": (cached, None),
        f"score, {batch}": (scoring, scoring_peak),
        "plan": (planning, planning_peak),
        "apply": (applying, applying_peak),
        f"score with the stream's covariance, {batch}": (scoring_stream, stream_peak),
        "plan, principal": (rotating, rotating_peak),
        "apply, principal": (turning, turning_peak),
    }
    return [
        {"pair": name, "step": step, "s": f"{s:.2f}", "MiB": "-" if m is None else f"{m / 2**20:.0f}"}
        for step, (s, m) in steps.items()
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ctypes.CDLL(None).mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: else what is freed and kept counts as used
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    rows = [row for name in PAIRS for row in benchmark(name)]
    print("\n| pair | step | seconds | peak memory above start, MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row.values())} |")


if __name__ == "__main__":
    main()
