"""Tokenizers: GPT-2's, from files or by name, or a byte-level BPE trained on the corpus itself."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...errors import SubcloningError
from ..contents import below, is_place

END_OF_TEXT = "<|endoftext|>"


class TrainedBPE:
    """A byte-level BPE of `vocab_size` tokens, GPT-2's kind, trained on the training text. Its end of text is id 0."""

    files = ()  # of text alone

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.description = {"kind": "byte-level BPE trained on this corpus", "vocab_size": vocab_size}

    def make(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        if tokenizer.get_vocab_size() != self.vocab_size:
            raise SubcloningError(
                f"vocab_size={self.vocab_size}: this corpus gives {tokenizer.get_vocab_size()} tokens. Bytes alone are "
                "256, and a small corpus has few pairs to merge: choose a size that it can fill"
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
        )


class Pretrained:
    """A tokenizer by name, or from a folder: what `save_pretrained` wrote, or GPT-2's vocab.json and merges.txt."""

    def __init__(self, path: str, revision: str | None = None):
        self.path, self.revision = path, revision
        # A folder by its last name: where it lies does not matter, and the manifest has the tokenizer's sha256.
        name = Path(path).name if is_place(path) else path
        self.description = {"kind": "pretrained", "path": name, "revision": revision}

    @property
    def files(self) -> list[Path]:
        """What the tokenizer is made of; nothing if it has a name on the Hub, or is gone."""
        return below(self.path) if is_place(self.path) else []

    def make(self, texts: Iterable[str] = ()) -> PreTrainedTokenizerBase:
        """Raises SubcloningError where there is none that can be read."""
        folder = Path(self.path).expanduser()
        files = {file.name for file in folder.glob("*")} if folder.is_dir() else set()
        bare = {"vocab.json", "merges.txt"} <= files and not files & {"tokenizer.json", "config.json"}
        try:
            if bare:
                tokenizer = GPT2Tokenizer.from_pretrained(folder)
            else:
                tokenizer = AutoTokenizer.from_pretrained(folder if files else self.path, revision=self.revision)
        except Exception as error:  # damaged files raise all kinds
            said = f"{type(error).__name__}: {error}"
            raise SubcloningError(f"{self.path} has no tokenizer that can be read: {said}") from error
        # Where a model's folder has none, transformers makes one of special tokens alone.
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            raise SubcloningError(f"{self.path} has no tokenizer: expected tokenizer.json, or its model's own files")
        return tokenizer
