"""A family that is described can be trained, too, by its table alone: here Llama."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from omegaconf import open_dict
from transformers import LlamaForCausalLM

from subcloning import Family, Plan, SubcloningError
from subcloning.method.axes import FAMILIES
from subcloning.tool.__main__ import main as subclone_command
from subcloning.training.fsdp import FullySharded, shard
from subcloning.training.language import CAUSAL, LanguageModel, LanguageParent
from subcloning.training.protocols import Data, Parent, data_of, offering, parent_of
from subcloning.training.run import run

MODEL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 32}
MODEL |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}


@pytest.fixture
def cfg(config, tmp_path):
    """cfg(*overrides): of a tiny Llama and a little text."""
    for split, lines in (("train", 2000), ("validation", 500)):
        text = "\n".join(f"line {n} of {lines * n} is a line of text" for n in range(lines))
        (tmp_path / f"{split}.txt").write_text(text)
    source = {"_target_": "subcloning.data.text.sources.TextFiles", "separator": None}
    source |= {split: f"{tmp_path}/{split}.txt" for split in ("train", "validation")}

    def make(experiment, *overrides):
        cfg = config(
            f"experiment={experiment}",
            *["logger=csv", "data.context=32", "data.validation_tokens=512", "data.scoring_tokens=512"],
            *["optim.batch_tokens=256", "optim.tokens=1024", "optim.warmup_tokens=256", "optim.validate_every=512"],
            *["optim.lr=1e-2", "optim.weight_decay=0.1", "data.corpus.tokenizer.vocab_size=300"],
            f"data.corpus.folder={tmp_path}/corpus",
            *overrides,
        )
        with open_dict(cfg):
            cfg.parent.model, cfg.parent.architecture = MODEL, "LlamaForCausalLM"
            cfg.data.corpus.source = source
        return cfg

    return make


def test_a_child_of_a_new_family_is_trained(cfg):
    parent = cfg("gpt2_stdlib_parent")
    before = run(parent)
    weights = Path(parent.run_dir) / "model"
    child = cfg("gpt2_stdlib", "init=subclone", f"parent.weights.path='{weights}'")
    summary = run(child)
    folder = Path(child.run_dir)
    curve = pd.read_csv(folder / "metrics.csv")["val_loss"]
    assert curve.iloc[-1] < curve.iloc[0]
    assert Plan.load(folder / "plan.safetensors").sizes["residual"] == (32, 16)
    trained = LlamaForCausalLM.from_pretrained(folder / "model")
    assert (trained.config.hidden_size, trained.config.num_hidden_layers) == (16, 3)
    assert sum(p.numel() for p in trained.parameters()) == summary["parameters"] < before["parameters"]


def test_what_the_tool_made_is_trained_as_it_is(cfg, tmp_path):
    parent = cfg("gpt2_stdlib_parent")
    run(parent)
    small = tmp_path / "small"
    model = Path(parent.run_dir) / "model"
    assert subclone_command([str(model), str(small), "--width", "0.5", "--select", "uniform"]) == 0
    given = ("parent=pretrained", f"parent.weights.path='{small}'", "destination=full", "init=whole", "name=on")
    child = cfg("gpt2_stdlib", *given)
    with open_dict(child):
        child.parent.model = None
    run(child)
    curve = pd.read_csv(Path(child.run_dir) / "metrics.csv")["val_loss"]
    held_out = data_of(child).validation
    tokens = held_out[torch.arange(len(held_out))]
    task = LanguageModel(LlamaForCausalLM.from_pretrained(small), {**child.optim}, 256, 32)
    assert curve.iloc[0] == pytest.approx(task.loss(tokens).item(), abs=1e-4)
    assert curve.iloc[-1] < curve.iloc[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None}, "parent.model and parent.weights are null"),
        ({"weights": {"path": "nowhere"}}, "nowhere do not exist"),
        (
            {"architecture": "GPT2LMHeadModel"},
            r"are of \['LlamaForCausalLM'\], not parent.architecture=GPT2LMHeadModel",
        ),
    ],
)
def test_a_config_that_does_not_lie_with_the_weights(tmp_path, options, message):
    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaForCausalLM.config_class(**MODEL)).save_pretrained(folder)
    given = {"name": "x", "model": None, "weights": {"path": str(folder)}, "architecture": "LlamaForCausalLM"}
    assert LanguageParent(**given).child({"width": 0.5}).config.hidden_size == 16
    with pytest.raises(SubcloningError, match=message):
        LanguageParent(**given | options)
    (folder / "config.json").unlink()
    with pytest.raises(SubcloningError, match="has no config that can be read"):
        LanguageParent(**given)


def test_what_training_reads_off_the_family(cfg, monkeypatch):
    parent = parent_of(cfg("gpt2_stdlib_parent", "parent.weights=null"))
    model = parent.child({"heads": 2, "blocks": 2})
    tokens = torch.randint(300, (2, 9))
    wanted = model(tokens).logits
    optim = {"tokens": 64, "validate_every": 32, "weight_decay": 0.1, "lr": 1e-3, "betas": (0.9, 0.95)}
    task = LanguageModel(model, {**optim, "warmup_tokens": 0}, batch_tokens=32, context=8)
    assert model.config._attn_implementation == CAUSAL
    torch.testing.assert_close(model(tokens).logits, wanted)  # attention is causal under that name, too
    spared, decayed = (group["params"] for group in task.configure_optimizers()["optimizer"].param_groups)
    assert [p.ndim for p in spared] == [1] * 5
    assert any(p is model.model.embed_tokens.weight for p in decayed)
    parts = []
    monkeypatch.setattr("subcloning.training.fsdp.fully_shard", lambda part, mesh: parts.append(part))
    module = SimpleNamespace(trainer=SimpleNamespace(strategy=FullySharded()), device_mesh={"data_parallel": None})
    shard(module, model)
    assert parts == [*model.model.layers, model]


def test_a_family_that_does_not_say_how_children_are_shaped(cfg, monkeypatch):
    family = FAMILIES["transformers.models.llama.modeling_llama.LlamaForCausalLM"]
    monkeypatch.setitem(FAMILIES, family.model_class, dataclasses.replace(family, resized=Family.resized))
    with pytest.raises(SubcloningError, match="no shape of a child of LlamaForCausalLM is known: give its"):
        parent_of(cfg("gpt2_stdlib_parent")).child({})


def test_what_lacks_something_is_named(config):
    for protocol, name in ((Parent, "export"), (Data, "scoring_batches")):
        members = {key for key in (*protocol.__annotations__, *vars(protocol)) if not key.startswith("_")}
        whole = SimpleNamespace(**dict.fromkeys(members))
        assert offering(protocol, whole) is whole
        delattr(whole, name)
        with pytest.raises(SubcloningError, match=f"SimpleNamespace is no {protocol.__name__}: it lacks {name}, which"):
            offering(protocol, whole)
    cfg = config("experiment=digits")
    cfg.parent = {"_target_": "types.SimpleNamespace", "name": "x"}
    with pytest.raises(SubcloningError, match="SimpleNamespace is no Parent: it lacks child, contents, "):
        run(cfg)
