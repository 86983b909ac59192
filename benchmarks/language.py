"""Speed of language modelling: our training step against a bare loop, the loader, and preparation, side by side.

    .venv/bin/python benchmarks/language.py     (two minutes on 2 CPU cores, alone on the machine)

Training: the stdlib study's child, batch and precision; rounds of our run (Lightning, loader, logging), of a bare
PyTorch loop on a batch held in memory, and of our run distilled from a parent of twice the width take turns, and the
medians are compared. Loader: batches alone. Preparation: one process over the text of the standard library, tokenizer
given, against `encode_batch` alone on the same text.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import Clock
from pytorch_lightning import Trainer
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from subcloning.data.text.corpus import Corpus
from subcloning.data.text.datamodule import TextData
from subcloning.data.text.sources import Stdlib
from subcloning.data.text.tokenizer import Pretrained, TrainedBPE
from subcloning.training.distillation import Teacher
from subcloning.training.language import LanguageModel

CONTEXT, SEQUENCES, VOCABULARY = 128, 8, 2048
STEPS, ROUNDS, WARMUP = 40, 5, 5
TOKENS = CONTEXT * SEQUENCES


def model(heads: int = 2) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_embd": 32 * heads, "n_layer": 6, "n_head": heads, "n_positions": CONTEXT, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(**shape, **dropouts, bos_token_id=0, eos_token_id=0))


def bare() -> float:
    """Tokens/s of the shortest loop that trains the same model in the same way."""
    lm = model()
    optimiser = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(VOCABULARY, (SEQUENCES, CONTEXT + 1))
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            start = time.perf_counter()
        logits = lm(tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return STEPS * TOKENS / (time.perf_counter() - start)


def ours(data: TextData, teacher: Teacher | None = None) -> float:
    """Tokens/s of our module under Lightning, set up as in a run."""
    optim = {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95], "warmup_tokens": 0}
    optim |= {"tokens": (WARMUP + STEPS) * TOKENS, "validate_every": (WARMUP + STEPS) * TOKENS}
    clock = Clock(WARMUP)
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    trainer = Trainer(
        max_epochs=1, gradient_clip_val=1.0, callbacks=[clock], limit_val_batches=0, accelerator="cpu", **quiet
    )
    lm = LanguageModel(model(), optim, TOKENS, CONTEXT)
    lm.teacher = teacher
    trainer.fit(lm, train_dataloaders=loader(data, trainer))
    return STEPS * TOKENS / clock.seconds


def loader(data: TextData, trainer: Trainer):
    data.trainer = trainer
    return data.train_dataloader()


def loading(data: TextData) -> float:
    """Tokens/s of the loader alone."""
    batches = loader(data, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + 2:
        count += sum(1 for _ in batches)
    return count * TOKENS / (time.perf_counter() - start)


def preparing(folder: Path, tokenizer: Path) -> tuple[float, float]:
    """10^6 characters/s of preparation by one process, and of the tokenizer alone."""
    source = Stdlib()
    texts = [piece.text for piece in source.read(0)]
    size = sum(map(len, texts))
    plain = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    start = time.perf_counter()
    plain.encode_batch(texts, add_special_tokens=False)
    middle = time.perf_counter()
    Corpus(folder, source, Pretrained(str(tokenizer)), shard_mib=1).prepare(processes=1)
    end = time.perf_counter()
    return size / (end - middle) / 1e6, size / (middle - start) / 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Corpus(f"{temporary}/corpus", Stdlib(), TrainedBPE(VOCABULARY), shard_mib=1)
        options = {"batch_tokens": TOKENS, "validate_every": (WARMUP + STEPS) * TOKENS, "context": CONTEXT, "seed": 0}
        data = TextData(corpus, **options, validation_tokens=1024, scoring_tokens=1024)
        teacher = Teacher(model(heads=4), weight=0.5, temperature=2.0)
        speeds = [(ours(data), bare(), ours(data, teacher)) for _ in range(ROUNDS)]
        our_speed, bare_speed, distilled_speed = (statistics.median(column) for column in zip(*speeds, strict=True))
        load = loading(data)
        prepares = [preparing(Path(f"{temporary}/{n}"), corpus.folder / "tokenizer") for n in range(3)]
        prepare, encode = (statistics.median(column) for column in zip(*prepares, strict=True))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"training, tokens/s: {our_speed:,.0f}, bare loop {bare_speed:,.0f}: {our_speed / bare_speed:.2f} (goal: 0.95)"
    )
    print(f"training with the parent as teacher, tokens/s: {distilled_speed:,.0f}: {distilled_speed / our_speed:.2f}")
    print(f"loader, tokens/s: {load:,.0f}: {load / our_speed:.0f} times what training takes (goal: 50)")
    print(
        f"preparation, 10^6 characters/s: {prepare:.2f}, encode_batch {encode:.2f}: {prepare / encode:.2f} (goal: 0.7)"
    )


if __name__ == "__main__":
    main()
