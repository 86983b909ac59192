"""Language modelling: a run's record, exact resume at any step, what is decayed, checkpoints for plain transformers."""

import json
import math
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from tiny import gpt2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, pipeline

from subcloning import Plan, SubcloningError, subclone
from subcloning.training import run as run_module
from subcloning.training.flops import training_flops
from subcloning.training.language import LanguageModel, LanguageParent, _sample
from subcloning.training.run import run

TINY = [
    "logger=csv",
    "parent.model.n_embd=16",
    "parent.model.n_layer=2",
    "parent.model.n_positions=32",
    "optim.batch_tokens=256",
    "optim.tokens=2048",
    "optim.warmup_tokens=512",
    "optim.validate_every=1024",
    "data.validation_tokens=512",
    "data.scoring_tokens=512",
]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Python's standard library, prepared once for all tests here."""
    return tmp_path_factory.mktemp("corpora")


@pytest.fixture
def language(config, corpora, tmp_path, monkeypatch):
    """Options of an experiment whose tiny parent has been trained for a few steps."""
    monkeypatch.setenv("SUBCLONING_CORPORA", str(corpora))
    run(config("experiment=gpt2_stdlib_parent", *TINY))
    (model,) = (tmp_path / "runs" / "gpt2_stdlib_parent").glob("*/*/model")
    return [
        "experiment=gpt2_stdlib",
        *TINY,
        f"parent.weights.path='{model}'",
        "optim.lr=1e-3",
        "optim.weight_decay=0.1",
    ]


def weights(folder):
    return GPT2LMHeadModel.from_pretrained(folder / "model").state_dict()


def test_run_leaves_its_record_and_a_plain_checkpoint(config, language):
    cfg = config(*language, "init=subclone", "seed=3")
    summary = run(cfg)
    folder = Path(cfg.run_dir)
    assert json.loads((folder / "summary.json").read_text()) == summary
    curve = pd.read_csv(folder / "metrics.csv")
    assert curve["tokens"].tolist() == [0, 1024, 2048]
    assert curve["step"].tolist() == [0, 4, 8]
    assert curve["val_perplexity"].tolist() == pytest.approx(curve["val_loss"].map(math.exp).tolist(), rel=1e-4)
    assert curve["val_loss"].iloc[-1] < curve["val_loss"].iloc[0]
    assert curve["train_loss"].notna().tolist() == [False, True, True]
    assert Plan.load(folder / "plan.safetensors").sizes["residual"] == (16, 8)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert len(provenance["data"]["corpus_sha256"]) == 64

    # The exported model is the trained one, for plain transformers; its head is tied and its tokenizer is with it.
    model = GPT2LMHeadModel.from_pretrained(folder / "model").eval()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config.n_embd == 8
    data = instantiate(cfg.data)
    losses = []
    with torch.no_grad():
        for number in range(len(data.validation)):
            tokens = data.validation[torch.tensor([number])]
            losses.append(model(tokens[:, :-1], labels=None).logits.transpose(1, 2))
            losses[-1] = F.cross_entropy(losses[-1], tokens[:, 1:]).item()
    assert sum(losses) / len(losses) == pytest.approx(summary["val_loss"], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.decode(tokenizer("def naïve(): pass").input_ids) == "def naïve(): pass"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    written = pipeline("text-generation", model=str(folder / "model"))("import os", max_new_tokens=5, do_sample=False)
    assert written[0]["generated_text"].startswith("import os")


class Interruption(Callback):
    """Stops at an optimiser step with a checkpoint of it, in the middle of an epoch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "last.ckpt")
            raise RuntimeError("pulled the plug")


@pytest.mark.parametrize("step", [2, 7])
def test_resumed_in_mid_epoch_equals_undisturbed(config, language, during, monkeypatch, step):
    def cfg(name):
        return config(*language, "init=subclone", f"name={name}", "optim.tokens=3072")

    run(cfg("undisturbed"))
    with pytest.raises(RuntimeError, match="pulled the plug"), during(Interruption(step)):
        run(cfg("disturbed"))
    monkeypatch.setattr(run_module, "Start", lambda *args: pytest.fail("subcloned a second time"))
    torch.manual_seed(1234)
    run(cfg("disturbed"))
    one, other = (Path(cfg(name).run_dir) for name in ("undisturbed", "disturbed"))
    curves = [pd.read_csv(folder / "metrics.csv") for folder in (one, other)]
    columns = ["tokens", "step", "train_loss", "val_loss", "val_perplexity"]
    assert curves[0][columns].equals(curves[1][columns])
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_micro_batches_change_nothing_but_rounding(config, language):
    whole = run(config(*language, "init=random", "name=whole"))
    parts = run(config(*language, "init=random", "name=parts", "micro_batch=2"))
    assert parts["step"] == whole["step"] == 8
    for key in ("val_loss", "train_loss"):
        assert parts[key] == pytest.approx(whole[key], abs=2e-5)
    with pytest.raises(SubcloningError, match=r"a batch of 8 does not divide into 1 device\(s\) x micro_batch=3"):
        run(config(*language, "init=random", "name=odd", "micro_batch=3"))


def test_wandb_gets_the_curve_against_tokens(config, language):
    cfg = config(*language, "init=subclone", "logger=wandb_offline")
    run(cfg)
    (log,) = Path(cfg.run_dir).glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    assert all(key in content for key in (b"tokens", b"val_perplexity", b"tokens_per_second", b"train_loss"))


def test_mixed_precision(config, language):
    cfg = config(*language, "init=subclone", "trainer.precision=bf16-mixed")
    run(cfg)
    losses = pd.read_csv(Path(cfg.run_dir) / "metrics.csv")["val_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.01


@pytest.mark.parametrize(
    "init", sorted(f.stem for f in (Path(__file__).parents[1] / "configs/init").glob("[!_]*.yaml"))
)
def test_every_init_mode_trains_with_depth_cut_too(config, language, init):
    cfg = config(*language, f"init={init}", "destination=half_width", "destination.depth=0.5")
    run(cfg)
    losses = pd.read_csv(Path(cfg.run_dir) / "metrics.csv")["val_loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_a_language_model_learns_from_its_parent_alone(config, language):
    """With nothing but the parent's predictions in the loss, which it begins far from."""
    cfg = config(*language, "init=random", "distill=parent", "distill.weight=1", "distill.temperature=1")
    run(cfg)
    curve = pd.read_csv(Path(cfg.run_dir) / "metrics.csv")
    assert curve["train_loss"].iloc[-1] < curve["train_loss"].iloc[1]


def test_mismatches_of_model_and_data(config, language):
    with pytest.raises(SubcloningError, match=r"has 2048 tokens and ends texts by 0; .* vocab_size=2000"):
        run(config(*language, "init=random", "parent.model.vocab_size=2000", "name=a"))
    with pytest.raises(SubcloningError, match="eos_token_id=7: choose a parent and data that share a tokenizer"):
        run(config(*language, "init=random", "parent.model.eos_token_id=7", "name=b"))
    with pytest.raises(SubcloningError, match="context=64 is more than the model's 32 positions"):
        run(config(*language, "init=random", "data.context=64", "name=c"))
    with pytest.raises(SubcloningError, match="tokens=2000 must be a multiple of validate_every=1024"):
        run(config(*language, "init=random", "optim.tokens=2000", "name=d"))
    with pytest.raises(SubcloningError, match="/nowhere do not exist: train the parent first"):
        run(config(*language, "init=subclone", "parent.weights.path=/nowhere", "name=e"))


def module(context=32, **options):
    config = GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=100, n_positions=32, eos_token_id=0, bos_token_id=0)
    optim = {"lr": 1.0, "weight_decay": 0.3, "betas": [0.9, 0.95], "tokens": 1000, "warmup_tokens": 200}
    optim |= {"validate_every": 100} | options
    return LanguageModel(GPT2LMHeadModel(config).eval(), optim, batch_tokens=20, context=context)


def test_decay_only_where_it_belongs_and_cosine_with_warmup_in_tokens():
    lm = module()
    setup = lm.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in setup["optimizer"].param_groups for p in group["params"]}
    assert len(decay) == len(list(lm.model.parameters()))
    for name, parameter in lm.model.named_parameters():
        spared = parameter.ndim == 1 or name == "transformer.wpe.weight"
        assert decay[id(parameter)] == (0 if spared else 0.3), name
    rates = []
    for _ in range(50):  # 1000 tokens in steps of 20
        rates.append(setup["lr_scheduler"]["scheduler"].get_last_lr()[0])
        setup["optimizer"].step()
        setup["lr_scheduler"]["scheduler"].step()
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert rates[30] == pytest.approx(0.5)
    assert rates[-1] < 0.01


def test_loss_is_that_of_the_library():
    lm = module()
    tokens = torch.randint(100, (2, 32))
    assert lm.loss(tokens).item() == pytest.approx(lm.model(tokens, labels=tokens).loss.item(), abs=1e-6)


def test_compiled_attention_is_causal_without_a_mask():
    """With a mask, which plain "sdpa" builds when compiled, the fast kernels do not apply."""
    optim = {"tokens": 8, "validate_every": 8}
    found = []

    def look(graph, inputs):
        found.extend(node for node in graph.graph.nodes if "scaled_dot_product" in str(node.target))
        return graph.forward

    module = LanguageModel(gpt2(depth=2), optim, batch_tokens=8, context=8)
    module.model.compile(backend=look)
    module.loss(torch.randint(37, (2, 9)))
    torch._dynamo.reset()
    assert [node.kwargs["is_causal"] for node in found] == [True, True]
    assert all(node.kwargs.get("attn_mask") is None for node in found)


@pytest.mark.parametrize("options", [{"n_inner": None}, {"n_inner": 48}])
def test_flops_are_those_of_the_formula(options):
    d, layers, vocab, context = 32, 3, 100, 16
    config = GPT2Config(n_embd=d, n_layer=layers, n_head=2, vocab_size=vocab, eos_token_id=0, bos_token_id=0, **options)
    with torch.device("meta"):
        flops = training_flops(GPT2LMHeadModel(config), _sample(context))
    matrices = layers * (4 * d * d + 2 * d * (options["n_inner"] or 4 * d)) + vocab * d
    assert flops == context * (6 * matrices + 12 * layers * d * context)


PAPER_SCALE = {"fig10_gpt2": ("gpt2_large", 774_030_080), "fig13_parent": ("gpt2_xl", 1_557_611_200)}


@pytest.mark.parametrize("experiment", PAPER_SCALE)
def test_paper_scale_shapes_and_settings(config, experiment):
    name, parameters = PAPER_SCALE[experiment]
    cfg = config(f"experiment={experiment}", f"parent={name}")
    OmegaConf.resolve(cfg)
    parent = instantiate(cfg.parent, _convert_="all")
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in parent.child(shape).parameters()) for shape in ({}, {"heads": 16, "blocks": 24})
        ]
    assert sizes == [parameters, 354_823_168]  # GPT-2 large or XL, and medium
    assert (cfg.optim.lr, cfg.optim.weight_decay) == (1e-4, 1e-3)
    random = config(f"experiment={experiment}", "init=random")
    assert (random.optim.lr, random.optim.weight_decay) == (1e-4, 0.1)
    assert cfg.trainer.devices * cfg.trainer.num_nodes == 96
    assert cfg.optim.batch_tokens % (96 * cfg.data.context) == 0
    assert cfg.optim.tokens % cfg.optim.validate_every == cfg.optim.validate_every % cfg.optim.batch_tokens == 0


def test_parent_by_name_takes_revision_and_float32(monkeypatch):
    seen = {}
    monkeypatch.setattr(GPT2LMHeadModel, "from_pretrained", lambda *args, **kwargs: seen.update(args=args, **kwargs))
    LanguageParent("x", {}, {"name": "openai-community/gpt2-large", "revision": "abc"}).trained()
    assert seen == {"args": ("openai-community/gpt2-large",), "revision": "abc", "dtype": torch.float32}


def memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def gpt2_tokenizer(folder):
    """A byte-level tokenizer of GPT-2's size, with its end of text; the real one's merges are not here."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"<unused {n}>" for n in range(50256 - len(alphabet))), "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.skipif(memory() < 20, reason=f"needs 20 GiB of memory, this machine has {memory():.0f}")
@pytest.mark.parametrize("name", ["gpt2_large", "gpt2_xl"])
@pytest.mark.xdist_group("large")  # one at a time, for their memory
def test_real_size(config, name, tmp_path):
    """GPT-2 large or XL to medium in float32, saved for plain transformers; one optimiser step with a context of 64."""
    cfg = config("experiment=fig10_gpt2", f"parent={name}", "parent.weights=null")
    parent = instantiate(cfg.parent, _convert_="all")
    large, medium = parent.trained(), parent.child({"heads": 16, "blocks": 24})
    tokens = torch.randint(50257, (1, 65))
    subclone(large, medium, [tokens[:, :-1]])
    found = medium.transformer.wte.weight[7, :, None] == large.transformer.wte.weight[7]
    assert found.any(1).all()  # each of the child's embedding coordinates is one of the parent's
    del large
    data = SimpleNamespace(corpus=SimpleNamespace(folder=gpt2_tokenizer(tmp_path)))
    parent.export(medium, tmp_path / "model", data)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(again.transformer.h[23].mlp.c_fc.weight, medium.transformer.h[23].mlp.c_fc.weight)
    assert (again.config.eos_token_id, again.generation_config.eos_token_id) == (50256, 50256)
    writer = pipeline("text-generation", model=again, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "model"))
    assert writer("Hello", max_new_tokens=2)[0]["generated_text"].startswith("Hello")
    del again, writer
    lm = LanguageModel(medium, OmegaConf.to_container(cfg.optim, resolve=True), cfg.optim.batch_tokens, 64, fused=False)
    optimiser = lm.configure_optimizers()["optimizer"]
    for group in optimiser.param_groups:
        group["lr"] = 1e-4  # the first step of the warm-up has none
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 20 * 2**20  # KiB: the most since the process began
    before = lm.loss(tokens)
    before.backward()
    optimiser.step()
    with torch.no_grad():
        assert lm.loss(tokens) < before
