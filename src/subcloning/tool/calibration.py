"""Batches of a parent's kind of data, from whatever holds some: text files, a folder of images, a set of `datasets`."""

import glob
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..errors import SubcloningError
from .parents import Checkpoint

CONTEXT = 256  # tokens of a sample of text, if the parent takes as many
BATCH = 8


def batches(checkpoint: Checkpoint, parent: Any, data: str, samples: int) -> list[dict | torch.Tensor]:
    """`samples` samples of `data` for `parent`, in batches of 8. Raises SubcloningError where there are too few."""
    rows: Iterator[torch.Tensor]
    text = getattr(parent, "main_input_name", "pixel_values") == "input_ids"  # timm's models have no such name
    rows = _tokens(checkpoint, parent, data) if text else _images(checkpoint, parent, data, samples)
    taken = list(islice(rows, samples))
    if len(taken) < samples:
        what = f"samples of {CONTEXT} tokens" if text else "images"
        raise SubcloningError(f"{data} has {len(taken)} {what}: give more data, or --samples {max(1, len(taken))}")
    stacked = torch.stack(taken)
    if text and stacked.max() >= parent.config.vocab_size:
        raise SubcloningError(
            f"the tokenizer of {checkpoint.place} gives token {stacked.max()}, and its model has "
            f"{parent.config.vocab_size}: are they of one checkpoint?"
        )
    return [{"input_ids": batch} for batch in stacked.split(BATCH)] if text else [*stacked.split(BATCH)]


def _tokens(checkpoint: Checkpoint, parent: Any, data: str) -> Iterator[torch.Tensor]:
    """Text, one document after the other, cut into samples of equal length."""
    from ..data.text.tokenizer import Pretrained

    tokenizer = Pretrained(checkpoint.place, checkpoint.revision).make()
    length = min(CONTEXT, parent.config.max_position_embeddings)
    ids: list[int] = []
    for text in _texts(data):
        ids += tokenizer(text, verbose=False)["input_ids"]
        while len(ids) >= length:
            yield torch.tensor(ids[:length])
            ids = ids[length:]


def _texts(data: str) -> Iterator[str]:
    """Of .txt or .jsonl files, a folder of .txt, or a set of `datasets`, saved here or on the Hub."""
    from ..data.text.sources import Hub, TextFiles

    source: Any
    if any(Path(data).rglob("*.txt*")):
        source = TextFiles(train=f"{glob.escape(data)}/**/*.txt*", validation_share=0.0)
    elif {".txt", ".jsonl"} & {*Path(data).suffixes}:
        source = TextFiles(train=data, validation_share=0.0)
    else:
        source = Hub(data, validation=0.0, streaming=True)
    try:
        for unit in source.units:
            for piece in source.read(unit):
                yield piece.text
    except (OSError, ValueError) as error:
        raise SubcloningError(f"{data} cannot be read as text: {error}") from error


def _images(checkpoint: Checkpoint, parent: Any, data: str, samples: int) -> Iterator[torch.Tensor]:
    """Images of a folder, however deep, at even distances, as the parent's own evaluation prepares them."""
    from PIL import Image

    ends = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    files = sorted(file for file in Path(data).rglob("*") if file.suffix.lower() in ends)
    if not Path(data).is_dir() or not files:
        raise SubcloningError(f"{data}: expected a folder of images, {', '.join(sorted(ends))}")
    transform, channels = checkpoint.images(parent)
    mode = "L" if channels == 1 else "RGB"
    for file in files[:: max(1, len(files) // samples)]:
        with Image.open(file) as image:
            yield transform(image.convert(mode))
