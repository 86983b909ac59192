"""`subclone`: from a checkpoint on disk to a smaller one that its own library loads."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf
from tiny import TEXT, gpt2, llama, randomise, vit
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    ViTImageProcessor,
)

from subcloning import Plan, SubcloningError, child_of, make_plan, save, score, subclone
from subcloning.tool.__main__ import main


@pytest.mark.parametrize("select", [None, "importance", "uniform"])
@pytest.mark.parametrize("build", [gpt2, lambda: llama(tie_word_embeddings=True)], ids=["gpt2", "llama"])
def test_a_language_model_becomes_a_smaller_one(checkpoint, text, tmp_path, capsys, build, select):
    parent = checkpoint(build())
    out = tmp_path / "child"
    options = ["--calibration", str(text), "--samples", "9"] if select != "uniform" else []
    options += ["--select", select] if select else []
    assert main([str(parent), str(out), "--width", "0.5", "--depth", "2", *options]) == 0
    said = capsys.readouterr().out
    assert "parameters" in said
    assert ("verified: permuting" in said) == (select != "uniform")
    child, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert (child.config.hidden_size, child.config.num_hidden_layers) == (12, 2)
    tokens = tokenizer("the quick", return_tensors="pt")["input_ids"]
    assert child.generate(tokens, max_new_tokens=4, do_sample=False).shape[1] > tokens.shape[1]
    plan = Plan.load(out / "plan.safetensors")
    assert plan.select == (select or "principal")
    assert main(["inspect", str(out)]) == 0
    assert capsys.readouterr().out == f"{plan}\n"
    card = (out / "README.md").read_text()
    assert str(plan) in card
    assert f"`subclone {parent} {out} --width 0.5" in card


def test_an_image_model_becomes_a_smaller_one(tmp_path, capsys):
    parent = vit(patch_size=4)
    save_for_hf(parent, str(tmp_path / "parent"), safe_serialization=True)
    images = tmp_path / "images" / "a"
    images.mkdir(parents=True)
    for n in range(9):
        pixels = np.random.default_rng(n).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{n}.png")
    arguments = [str(tmp_path / "parent"), str(tmp_path / "child"), "--heads", "2", "--hidden", "20", "--depth", "0.67"]
    assert (
        main(
            [
                *arguments,
                "--calibration",
                str(tmp_path / "images"),
                "--samples",
                "9",
                "--refit",
                "--select",
                "importance",
            ]
        )
        == 0
    )
    child = timm.create_model(f"local-dir:{tmp_path / 'child'}", pretrained=True)
    assert (child.embed_dim, len(child.blocks), child.blocks[0].mlp.fc1.out_features) == (12, 2, 20)
    assert child(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    saved = load_file(tmp_path / "child" / "model.safetensors")
    assert torch.equal(saved["head.bias"], parent.head.bias)  # of the parent, not a fresh one
    assert main(["verify", str(tmp_path / "parent"), "--calibration", str(tmp_path / "images")]) == 0
    assert "verified: permuting" in capsys.readouterr().out


def test_what_cannot_be_rotated_is_selected_from(tmp_path):
    save_for_hf(vit(pre_norm=True), str(tmp_path / "parent"), safe_serialization=True)
    assert main([str(tmp_path / "parent"), str(tmp_path / "child"), "--width", "0.5", "--scores", "weights"]) == 0
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "0.png")
    options = ["--width", "0.5", "--calibration", str(tmp_path / "images"), "--samples", "1"]
    assert main([str(tmp_path / "parent"), str(tmp_path / "other"), *options]) == 0
    assert Plan.load(tmp_path / "other" / "plan.safetensors").select == "importance"


def test_an_image_model_of_transformers_becomes_a_smaller_one(tmp_path):
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=8, mlp_ratio=2
    )
    parent = randomise(Dinov2ForImageClassification(config))
    parent.save_pretrained(tmp_path / "parent")
    size = {"height": 16, "width": 16}
    ViTImageProcessor(size=size, do_resize=True).save_pretrained(tmp_path / "parent")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    options = ["--width", "0.5", "--calibration", str(tmp_path / "images"), "--samples", "9"]
    assert main([str(tmp_path / "parent"), str(tmp_path / "child"), *options]) == 0
    child = Dinov2ForImageClassification.from_pretrained(tmp_path / "child")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "child")
    pixels = processor(Image.new("RGB", (20, 24)), return_tensors="pt")["pixel_values"]
    assert child(pixels).logits.isfinite().all()
    assert Plan.load(tmp_path / "child" / "plan.safetensors").select == "principal"


@pytest.mark.parametrize("pooled", [True, False])
def test_an_encoder_keeps_the_pooler_that_it_has(checkpoint, text, tmp_path, pooled):
    config = BertConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40, vocab_size=37,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    parent = checkpoint(randomise(BertModel(config, add_pooling_layer=pooled)))
    options = ["--width", "0.5", "--calibration", str(text), "--samples", "9"]
    assert main([str(parent), str(tmp_path / "child"), *options]) == 0
    names = set(load_file(tmp_path / "child" / "model.safetensors"))
    assert ("pooler.dense.weight" in names) == pooled
    again = BertModel.from_pretrained(tmp_path / "child", add_pooling_layer=pooled)
    assert again.config.hidden_size == 12


def test_a_dry_run_needs_no_weights(checkpoint, tmp_path, capsys):
    parent = checkpoint(gpt2())
    (parent / "model.safetensors").write_bytes(b"")
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--dry-run"]) == 0
    assert "n_embd" in capsys.readouterr().out
    assert not (tmp_path / "child").exists()


def test_a_child_has_its_parents_dtype(checkpoint, tmp_path):
    parent = checkpoint(gpt2().bfloat16())
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform"]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "child", dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["folder", "jsonl", "datasets"])
def test_calibration_comes_in_several_forms(checkpoint, tmp_path, kind):
    parent, data = checkpoint(gpt2()), tmp_path / ("text.jsonl" if kind == "jsonl" else "text [1]")
    if kind == "folder":
        data.mkdir()
        (data / "a.txt").write_text(TEXT)
    elif kind == "jsonl":
        data.write_text(json.dumps({"text": TEXT}))
    else:
        Dataset.from_dict({"text": [TEXT]}).save_to_disk(data)
    assert (
        main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--calibration", str(data), "--samples", "9"])
        == 0
    )


def test_units_are_scored_by_weights_where_there_are_no_data(checkpoint, tmp_path, capsys):
    parent = checkpoint(gpt2())
    assert main([str(parent), str(tmp_path / "child"), "--width", "0.5", "--scores", "weights"]) == 0
    assert "not verified: no data" in (card := (tmp_path / "child" / "README.md").read_text())
    assert "the norms of their weights, without data" in card
    assert Plan.load(tmp_path / "child" / "plan.safetensors").select == "importance"


def test_a_child_is_uploaded_whole_or_stays_here(checkpoint, tmp_path, monkeypatch, capsys):
    sent = []

    def upload(self, repo_id, folder_path, commit_message):
        sent.append((repo_id, sorted(file.name for file in folder_path.iterdir())))
        return "uploaded"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, exist_ok: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    options = ["--width", "0.5", "--select", "uniform", "--push-to-hub", "me/small"]
    parent = checkpoint(gpt2())
    assert main([str(parent), str(tmp_path / "child"), *options]) == 0
    files = ["README.md", "config.json", "generation_config.json", "model.safetensors", "plan.safetensors"]
    assert sent == [("me/small", [*files, "tokenizer.json", "tokenizer_config.json"])]

    def refuse(self, *args, **options):
        raise ValueError("no token")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    assert main([str(parent), str(tmp_path / "other"), *options]) == 1
    assert "is whole, but was not uploaded to me/small: no token" in capsys.readouterr().err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "other").config.n_embd == 12


def test_the_same_in_python(tmp_path):
    parent = llama(tie_word_embeddings=True)
    tokens = torch.randint(37, (2, 10), generator=torch.Generator().manual_seed(0))
    child = child_of(parent, width=0.5, depth=2, hidden=20)
    subclone(parent, child, scores=score(parent, [tokens], stream=True), select="principal")
    save(child, tmp_path / "child")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    sizes = loaded.config.hidden_size, loaded.config.num_hidden_layers, loaded.config.intermediate_size
    assert sizes == (12, 2, 20)
    assert torch.equal(loaded(tokens).logits, child.eval()(tokens).logits)
    assert child_of(parent, depth=0.67).config.num_hidden_layers == 2
    with pytest.raises(SubcloningError, match="exists: choose a folder that does not"):
        save(child, tmp_path / "child")
    with pytest.raises(SubcloningError, match="heads keep their size"):
        child_of(parent, width=0.3)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_same_in_python_for_images(tmp_path, pool):
    parent = vit(global_pool=pool)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    child = child_of(parent, heads=2, depth=2)
    subclone(parent, child, [images])
    plan = make_plan(parent, child, score(parent, [images]))
    save(child, tmp_path / "child", plan)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'child'}", pretrained=True).eval()
    assert (loaded.embed_dim, len(loaded.blocks)) == (12, 2)
    assert torch.equal(loaded(images), child.eval()(images))
    assert str(Plan.load(tmp_path / "child" / "plan.safetensors")) == str(plan)


def test_it_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "subcloning.tool", "--help"], capture_output=True, text=True, check=True
    )
    assert "subclone inspect OUT" in done.stdout
