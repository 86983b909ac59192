"""Checkpoints larger than memory: what is written tensor by tensor is what `apply_plan` makes, or nothing."""

import json
import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import BUILD, batch_for
from tiny import gpt2, llama, save_tokenizer
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from subcloning import Plan, Scores, SubcloningError, apply_plan, child_of, make_plan, score
from subcloning.method.anatomy import Anatomy
from subcloning.method.shards import INDEX, WEIGHTS, Shards, write_child
from subcloning.tool.__main__ import main

PARENTS = {
    "gpt2": gpt2,
    "gpt2 untied": lambda: gpt2(tie_word_embeddings=False),
    "llama": lambda: llama(tie_word_embeddings=True),
    "neox": BUILD["neox"],
    "gemma": BUILD["gemma"],
    "bert masked": BUILD["bert masked"],
    "eva02": BUILD["eva02"],  # whose norms' biases are solved for
}


def empty(model):
    with torch.device("meta"):
        return type(model)(model.config)


@pytest.mark.parametrize("name", PARENTS)
def test_tensor_by_tensor_it_is_the_same_child(tmp_path, name):
    parent = PARENTS[name]()
    save_file({k: v.clone() for k, v in Anatomy(parent).tensors.items()}, tmp_path / WEIGHTS)
    stream = Anatomy(parent).rotates
    scores = score(parent, [batch_for(parent)], stream=stream)
    child = child_of(parent, width=0.5, depth=2)
    with torch.device("meta"):
        hollow = child_of(parent, width=0.5, depth=2)
        shell = child_of(parent)
    on_disk = Shards(tmp_path).anatomy(shell)
    assert on_disk.fingerprint == Anatomy(parent).fingerprint
    for number, rule in enumerate(("uniform", "importance", *(["principal"] if stream else []))):
        plan = make_plan(on_disk, hollow, scores, select=rule)
        (tmp_path / rule).mkdir()
        steps = [*write_child(plan, on_disk, Anatomy(hollow), tmp_path / rule, shard=4000 * (number + 1))]
        assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
        wanted = Anatomy(apply_plan(plan, parent, child)).tensors
        written = Shards(tmp_path / rule)
        assert (tmp_path / rule / INDEX).exists()
        assert set(written) == set(wanted)
        for key, tensor in wanted.items():
            torch.testing.assert_close(written[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.fixture
def parent(tmp_path):
    """A folder with a sharded checkpoint of bfloat16, as transformers saves it, and its model."""
    model = llama(tie_word_embeddings=True).bfloat16()
    model.save_pretrained(tmp_path / "parent", max_shard_size="8KB")
    assert len([*(tmp_path / "parent").glob("*.safetensors")]) > 2
    return tmp_path / "parent", model


@pytest.mark.parametrize("rule", ["uniform", "importance", "principal"])
def test_the_command_makes_it_and_transformers_loads_it(tmp_path, parent, rule, capsys):
    folder, model = parent
    score(model, [torch.randint(37, (3, 10))], stream=True).save(tmp_path / "scores.safetensors")
    options = ["--width", "0.5", "--select", rule, "--stream"]
    options += ["--scores", str(tmp_path / "scores.safetensors")] if rule != "uniform" else []
    assert main([str(folder), str(tmp_path / "child"), *options]) == 0, capsys.readouterr().err
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child", dtype="auto")
    assert child.dtype == torch.bfloat16
    assert child.lm_head.weight is child.model.embed_tokens.weight
    plan = Plan.load(tmp_path / "child" / "plan.safetensors")
    wanted = apply_plan(plan, model, child_of(model, width=0.5).bfloat16())
    for key, value in wanted.state_dict().items():
        assert torch.equal(child.state_dict()[key], value), key


def test_weights_are_scored_tensor_by_tensor(tmp_path, parent, capsys):
    folder, _ = parent
    options = ["--width", "0.5", "--select", "importance", "--scores", "weights"]
    assert main([str(folder), str(tmp_path / "a"), *options, "--stream"]) == 0, capsys.readouterr().err
    assert main([str(folder), str(tmp_path / "b"), *options]) == 0, capsys.readouterr().err
    one, other = load_file(tmp_path / "a" / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS)
    assert set(one) == set(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("spread", [False, True])
def test_scores_are_made_once_and_kept(tmp_path, parent, capsys, spread):
    """On several devices, too, where accelerate is installed: with "auto", on this one."""
    if spread:
        pytest.importorskip("accelerate")
    checkpoint, _ = parent
    tokens = tmp_path / "text.txt"
    tokens.write_text("some words of text " * 100)
    save_tokenizer(checkpoint, tokens.read_text())
    file = tmp_path / "scores.safetensors"
    options = ["--calibration", str(tokens), "--samples", "4", *(["--device-map", "auto"] if spread else [])]
    assert main(["score", str(checkpoint), str(file), *options]) == 0, capsys.readouterr().err
    assert main(["score", str(checkpoint), str(file), *options]) == 1
    assert "exists: choose" in capsys.readouterr().err
    for number, stream in enumerate(([], ["--stream"])):
        out = tmp_path / f"child{number}"
        assert main([str(checkpoint), str(out), "--width", "0.5", "--scores", str(file), *stream]) == 0
    a, b = (Plan.load(tmp_path / f"child{number}" / "plan.safetensors") for number in range(2))
    assert a.select == b.select == "principal"
    assert all(torch.equal(a.maps[key], b.maps[key]) for key in a.maps)


def test_scores_of_offloaded_weights(tmp_path):
    pytest.importorskip("accelerate")
    folder, model = tmp_path / "parent", llama()
    model.save_pretrained(folder)
    places = {name: "cpu" for name in ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")}
    places |= {"model.layers.0": "disk", "model.layers.1": "cpu", "model.layers.2": "disk"}
    spread = type(model).from_pretrained(
        folder, device_map=places, offload_folder=str(tmp_path / "offloaded"), dtype="auto"
    )
    assert any(parameter.is_meta for parameter in spread.parameters())
    batches = [torch.randint(37, (3, 10))]
    wanted, found = score(model, batches, stream=True), score(spread, batches, stream=True)
    for key, value in wanted.sums.items():
        torch.testing.assert_close(found.sums[key], value, rtol=1e-5, atol=1e-5)


def first_of(folder):
    return min(folder.glob("*.safetensors"))


def rewritten(folder, change):
    tensors = load_file(first_of(folder))
    change(tensors)
    save_file(tensors, first_of(folder), metadata={"format": "pt"})


def indexed(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def key_of(tensors):
    return sorted(name for name in tensors if "norm" not in name)[0]


DAMAGE = {
    "a hole": (lambda folder: first_of(folder).unlink(), "which its index names: download it again"),
    "no index": (lambda folder: (folder / INDEX).unlink(), "it has neither"),
    "both forms": (lambda folder: shutil.copy(first_of(folder), folder / WEIGHTS), "both model.safetensors and"),
    "cut short": (lambda folder: first_of(folder).write_bytes(first_of(folder).read_bytes()[:-9]), "not whole"),
    "not there": (lambda folder: rewritten(folder, lambda t: t.pop(key_of(t))), "which does not have it"),
    "twice": (
        lambda folder: rewritten(folder, lambda t: t.update({"model.norm.weight": torch.ones(24)})),
        "is both in",
    ),
    "quantised": (
        lambda folder: rewritten(folder, lambda t: t.update({k: t[k].to(torch.int8) for k in [key_of(t)]})),
        "is I8",
    ),
    "another shape": (
        lambda folder: rewritten(folder, lambda t: t.update({k: t[k][:1].clone() for k in [key_of(t)]})),
        r"of shape \(\d+, \d+\)",
    ),
    "another name": (
        lambda folder: [
            rewritten(folder, lambda t: t.update(other=t.pop(key_of(t)))),
            indexed(folder, lambda i: i["weight_map"].pop(key_of(i["weight_map"]))),
            indexed(folder, lambda i: i["weight_map"].update(other=first_of(folder).name)),
        ],
        "lacks model.embed_tokens.weight, and 0 more",
    ),
    "an unknown tensor": (
        lambda folder: [
            rewritten(folder, lambda t: t.update(other=torch.ones(1))),
            indexed(folder, lambda i: i["weight_map"].update(other=first_of(folder).name)),
        ],
        "has, unknown to the model, other",
    ),
    "a NaN": (
        lambda folder: rewritten(folder, lambda t: t[key_of(t)].fill_(torch.nan)),
        "the parent's tensor of the child's .* holds NaN",
    ),
    "elsewhere": (
        lambda folder: indexed(folder, lambda i: i["weight_map"].update(other="../x.safetensors")),
        "no map from tensors to files of this folder",
    ),
    "no json": (lambda folder: (folder / INDEX).write_text("{"), "is damaged"),
    "no map": (lambda folder: (folder / INDEX).write_text('{"weight_map": [1]}'), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_checkpoints_that_are_refused(tmp_path, parent, damage, capsys):
    folder, _ = parent
    do, message = DAMAGE[damage]
    do(folder)
    assert main([str(folder), str(tmp_path / "child"), "--width", "0.5", "--select", "uniform", "--stream"]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent"]


def test_a_file_that_changes_while_it_is_read_is_found(tmp_path, parent):
    folder, model = parent
    with torch.device("meta"):
        child = child_of(model, width=0.5)
    there = Shards(folder).anatomy(empty(model))
    plan = make_plan(there, child, select="uniform")
    steps = write_child(plan, there, Anatomy(child), tmp_path)
    next(steps)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes())
    with pytest.raises(SubcloningError, match="was changed while it was read: begin again"):
        for _ in steps:
            pass
    assert not (tmp_path / WEIGHTS).exists()


def test_stopped_midway_it_is_no_checkpoint(tmp_path, parent):
    folder, model = parent
    with torch.device("meta"):
        child = child_of(model, width=0.5)
    there = Shards(folder).anatomy(empty(model))
    (tmp_path / "child").mkdir()
    steps = write_child(
        make_plan(there, child, select="uniform"), there, Anatomy(child), tmp_path / "child", shard=2000
    )
    for done, _ in steps:
        if done == 20:
            break
    steps.close()
    assert len([*(tmp_path / "child").glob("*.safetensors")]) > 1
    with pytest.raises(SubcloningError, match="it has neither"):
        Shards(tmp_path / "child")


def test_options_that_need_the_parent_in_memory_are_refused(tmp_path, parent, capsys):
    folder, _ = parent
    (tmp_path / "text.txt").write_text("a b c")
    options = ["--width", "0.5", "--stream", "--calibration", str(tmp_path / "text.txt")]
    assert main([str(folder), str(tmp_path / "child"), *options]) == 1
    assert "give --scores FILE" in capsys.readouterr().err
    assert main(["vit_tiny_patch16_224", str(tmp_path / "child"), "--heads", "1", "--select", "first", "--stream"]) == 1
    assert "in one file" in capsys.readouterr().err


def test_a_head_of_the_childs_own_is_refused(tmp_path):
    parent = PARENTS["bert masked"]()
    parent.save_pretrained(tmp_path)
    with torch.device("meta"):
        child = BertForMaskedLM(BertConfig.from_dict(parent.config.to_dict() | {"vocab_size": 50}))
    there = Shards(tmp_path).anatomy(empty(parent))
    plan = make_plan(there, child, select="first", ignore_mismatched="vocab")
    with pytest.raises(SubcloningError, match="is to keep the child's own initial values"):
        next(write_child(plan, there, Anatomy(child), tmp_path))


def damaged(whole, generator):
    """`whole` with bytes changed, cut out, doubled or put in, mostly in its first kilobyte, where the header is."""
    data = bytearray(whole)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(min(len(data), generator.choice((16, 1024, len(data)))) or 1)
        kind = generator.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del data[at : at + generator.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + generator.randint(1, 64)]
        elif kind == 3:
            data[at:at] = generator.choice(
                (b'"', b"{", b"[", b"0", b"9999999999", b"-1", b"null", b"1e999", b"\\u0000")
            )
        else:
            del data[at:]
    return bytes(data)


def test_damaged_files_end_in_a_message(tmp_path, parent):
    """Ten thousand of them: a checkpoint's file and index, a plan, scores. No other error, and none that hangs."""
    folder, model = parent
    child = child_of(model, width=0.5)
    scores = score(model, [torch.randint(37, (3, 10))], stream=True)
    scores.save(tmp_path / "scores")
    make_plan(model, child, scores, select="principal").save(tmp_path / "plan")
    anatomy, generator, refused = Anatomy(model), random.Random(0), 0
    shell = empty(model)

    def shards(_):
        there = Shards(folder).anatomy(shell)
        for name in there.tensors:
            there[name].sum()

    targets = {
        tmp_path / "scores": lambda file: make_plan(anatomy, child, Scores.load(file), select="principal"),
        tmp_path / "plan": lambda file: apply_plan(Plan.load(file), anatomy, child),
        first_of(folder): shards,
        folder / INDEX: shards,
    }
    for file, read in targets.items():
        whole = file.read_bytes()
        read(file)
        for _ in range(2500):
            file.unlink()
            file.write_bytes(damaged(whole, generator))
            try:
                read(file)
            except SubcloningError:
                refused += 1
        file.write_bytes(whole)
    assert refused > 5000
