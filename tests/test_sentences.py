"""Encoders of sentences are trained by the programs as they are, on halves of paragraphs and a parent's opinion."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from omegaconf import open_dict
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerFast

from subcloning import SubcloningError
from subcloning.data.text.halves import Halves
from subcloning.data.text.sources import TextFiles
from subcloning.data.text.tokenizer import Pretrained
from subcloning.training.distillation import Teacher
from subcloning.training.protocols import data_of, parent_of
from subcloning.training.run import run
from subcloning.training.sentences import SentenceEncoder, similarities, vectors

WORDS = [f"w{n}" for n in range(40)]
MODEL = {"vocab_size": 43, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
MODEL |= {"intermediate_size": 24, "max_position_embeddings": 16}


@pytest.fixture
def places(tmp_path):
    """Paragraphs of 12 words, every third too short; and a parent with its tokenizer."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 90), ("valid", 30)):
        lines = [
            " ".join(WORDS[int(w)] for w in torch.randint(40, (12 if n % 3 else 11,), generator=generator))
            for n in range(count)
        ]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    vocabulary = {word: n for n, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    torch.manual_seed(0)
    folder = tmp_path / "parent"
    BertModel(BertModel.config_class(**MODEL)).save_pretrained(folder)  # with a pooler, as such encoders come
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return tmp_path


@pytest.fixture
def cfg(config, places):
    def make(*overrides):
        cfg = config(
            "experiment=minilm",
            *["logger=csv", "trainer=cpu", "optim.lr=1e-2", "data.length=8", f"parent.weights.path='{places}/parent'"],
            *["optim.batch_tokens=64", "optim.tokens=512", "optim.warmup_tokens=64", "optim.validate_every=256"],
            *["data.validation=10", "data.scoring=8", f"data.source.train='{places}/train.txt'"],
            f"data.source.validation='{places}/valid.txt'",
            *overrides,
        )
        with open_dict(cfg):
            cfg.parent.model, cfg.data.source.separator = MODEL, None
        return cfg

    return make


def halves(places, **options):
    options = {"length": 8, "train": 100, "validation": 10, "scoring": 8, "seed": 0} | options
    options = {"batch_tokens": 64, "validate_every": 256} | options
    source = TextFiles(f"{places}/train.txt", f"{places}/valid.txt")
    return Halves(source, Pretrained(f"{places}/parent"), **options)


def test_halves_of_paragraphs(places):
    data = halves(places)
    assert data.train.shape == (60, 2, 8)  # a third is too short
    assert (data.train[..., 0] == 0).all()
    assert (data.train[..., -1] == 1).all()
    first = (places / "train.txt").read_text().splitlines()[1].split()
    assert data.tokenizer.convert_ids_to_tokens(data.train[0, :, 1:-1].flatten().tolist()) == first
    assert len(data.validation) == 10
    assert data.provenance == halves(places).provenance != halves(places, train=50).provenance
    assert sum(len(batch) for batch in data.scoring_batches()) == 16
    shares = [torch.cat([*data.scoring_batches(rank, 2)]) for rank in range(2)]
    assert sorted(torch.cat(shares).tolist()) == sorted(torch.cat([*data.scoring_batches()]).tolist())


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_paragraph_comes_once_in_an_epoch(places, world_size):
    data, seen = halves(places), []
    for rank in range(world_size):
        data.trainer = SimpleNamespace(
            world_size=world_size, global_rank=rank, accumulate_grad_batches=1, global_step=0
        )
        batches = data.train_dataloader().dataset
        steps = 60 // (4 // world_size) // world_size
        seen += [batches[number].view(-1, 2, 8) for number in range(steps)]
    assert sorted(torch.cat(seen).flatten(1).tolist()) == sorted(data.train.flatten(1).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 60}, "must be a multiple of a paragraph's 2 x 8 tokens"),
        ({"length": 16}, "has 0 paragraphs of 28 tokens"),
        ({"batch_tokens": 1024, "validate_every": 1024}, "more than the 60 paragraphs"),
    ],
)
def test_what_halves_refuse(places, options, message):
    with pytest.raises(SubcloningError, match=message):
        halves(places, **options)


def test_the_loss_is_that_of_finding_the_other_half(cfg):
    parent = parent_of(cfg())
    model, tokens = parent.trained(), torch.randint(43, (6, 8))
    optim = {**cfg().optim}
    task = SentenceEncoder(model, optim, batch_tokens=64, length=8)
    found = vectors(model, tokens)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    cosines = (found @ found.T / 0.05).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    wanted = F.cross_entropy(cosines, torch.tensor([1, 0, 3, 2, 5, 4]))
    torch.testing.assert_close(task.loss(tokens), wanted)
    assert similarities(model, tokens).shape == (6, 5)
    teacher = Teacher(parent.trained(), weight=1, temperature=2)
    assert task.loss(tokens, teacher).item() == pytest.approx(0, abs=1e-5)  # it says what its parent says


def test_a_child_learns_its_parents_similarities(cfg):
    made = cfg("init=subclone", "optim.tokens=5120")
    summary = run(made)
    folder = Path(made.run_dir)
    curve = pd.read_csv(folder / "metrics.csv")
    assert curve["train_loss"].iloc[-5:].mean() < 0.7 * curve["train_loss"].iloc[1:6].mean()
    assert summary["val_recall"] <= summary["val_recall_10"] == 1  # of ten
    model, tokenizer = BertModel.from_pretrained(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (8, 1)
    assert tokenizer("w1 w2")["input_ids"] == [0, 4, 5, 1]


def test_a_whole_copy_agrees_with_its_parent(cfg):
    made = cfg("init=subclone", "destination=full")
    run(made)
    first = pd.read_csv(Path(made.run_dir) / "metrics.csv").iloc[0]
    assert first["val_correlation"] == pytest.approx(1, abs=1e-4)


def test_taylor_scores_and_other_tokenizers(cfg):
    run(cfg("init=score_taylor", "name=taylor"))
    made = cfg()
    parent = parent_of(made)
    parent.config.vocab_size = 20
    with pytest.raises(SubcloningError, match="the data have 43 tokens"):
        parent.module(parent.child({}), {**made.optim}, data_of(made), fused=True)
