"""Smaller heads, where they are asked for: whole rotary pairs, at the parent's frequencies."""

import pytest
import torch
import transformers
from test_families import LLAMA, hf
from tiny import gpt2

from subcloning import SubcloningError, apply_plan, child_of, make_plan, save, score, subclone
from subcloning.method.anatomy import Anatomy
from subcloning.method.refit import refit
from subcloning.method.shards import Shards, write_child
from subcloning.tool.__main__ import main as subclone_command

X = torch.randint(1, 37, (3, 10), generator=torch.Generator().manual_seed(1))
BUILD = {
    "llama": lambda: hf("LlamaForCausalLM", "llama", **LLAMA, head_dim=8, attention_bias=True),
    "mistral": lambda: hf("MistralForCausalLM", "mistral", **LLAMA, head_dim=8),
    "qwen2": lambda: hf("Qwen2Model", "qwen2", **LLAMA, head_dim=8),
    "qwen3": lambda: hf("Qwen3ForCausalLM", "qwen3", **LLAMA, head_dim=8),
    "gemma": lambda: hf("GemmaForCausalLM", "gemma", **LLAMA, head_dim=8),
}


def silent_between(parent, k):
    """Of the positions of each head, only every k-th has weights, so that it loses nothing with the others."""
    with torch.no_grad():
        for layer in parent.model.layers:
            for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                size = layer.self_attn.head_dim
                lost = torch.arange(size) % k != 0
                proj.weight.view(-1, size, proj.in_features)[:, lost] = 0
                proj.bias.view(-1, size)[:, lost] = 0
    return parent


def wider_softmax(child, k):
    """The library divides by the root of the child's head size, which is smaller."""
    for layer in child.model.layers:
        for tensor in (layer.self_attn.q_proj.weight, layer.self_attn.q_proj.bias):
            tensor.data.mul_(k**-0.5)
    return child


@pytest.mark.parametrize("size", [4, 2])
def test_a_child_that_loses_nothing_is_its_parent(size):
    """Which it is not if a pair is parted, or turned at another frequency than the parent's."""
    k = 8 // size
    parent = silent_between(BUILD["llama"](), k)
    child = child_of(parent, head_size=size)
    subclone(parent, child, select="first", scale=False, thin_heads=True)
    with torch.no_grad():
        torch.testing.assert_close(wider_softmax(child, k).eval()(X).logits, parent(X).logits)


def test_layers_that_are_refitted_make_up_for_positions_and_heads():
    parent = silent_between(BUILD["llama"](), 2)
    child = child_of(parent, heads=2, head_size=4)
    scores = score(parent, [X])
    plan = make_plan(parent, child, scores, thin_heads=True)
    apply_plan(plan, parent, child, scale=False)
    whole = child_of(parent, heads=2)
    apply_plan(same := make_plan(parent, whole, scores), parent, whole, scale=False)
    refit(plan, parent, child, [X])
    refit(same, parent, whole, [X], ridge=2e-3)  # of a mean over inputs of which half are silent
    thin, full = (model.model.layers[0].self_attn.o_proj.weight for model in (child, whole))
    torch.testing.assert_close(thin, full.view(len(full), 2, 8)[..., ::2].reshape(thin.shape))


@pytest.mark.parametrize("name", BUILD)
def test_children_open_in_their_library_and_can_be_streamed(name, tmp_path):
    parent = BUILD[name]()
    rule = "importance" if name == "gemma" else "principal"
    scores = score(parent, [X], stream=rule == "principal")
    child = child_of(parent, width=0.5, depth=2, head_size=4)
    plan = make_plan(parent, child, scores, select=rule, thin_heads=True)
    apply_plan(plan, parent, child)
    save(child, tmp_path / "child", plan)
    again = type(parent).from_pretrained(tmp_path / "child").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X)[0], child.eval()(X)[0])
    frequencies = [model.base_model.rotary_emb.inv_freq for model in (child, parent)]
    torch.testing.assert_close(frequencies[0], frequencies[1][::2])
    parent.save_pretrained(tmp_path / "parent")
    with torch.device("meta"):
        empty = type(parent)(parent.config)
    (tmp_path / "streamed").mkdir()
    child.config.save_pretrained(tmp_path / "streamed")
    mother = Shards(tmp_path / "parent").anatomy(empty)
    for _ in write_child(plan, mother, Anatomy(child), tmp_path / "streamed"):
        pass
    streamed = type(parent).from_pretrained(tmp_path / "streamed").state_dict()
    for key, tensor in child.state_dict().items():
        torch.testing.assert_close(streamed[key], tensor)


def test_what_is_not_sound_or_was_not_asked_for_is_refused():
    parent = BUILD["llama"]()
    child = child_of(parent, head_size=4)
    with pytest.raises(SubcloningError, match=r"has 8 and the child 4. .* with thin_heads=True .* be 2 or 4: choose"):
        make_plan(parent, child, select="first")
    for size in (1, 3, 5, 16):  # 1 is half of a pair
        with pytest.raises(SubcloningError, match=f"head_size={size}: expected one of 2, 4$"):
            child_of(parent, head_size=size)
    with pytest.raises(SubcloningError, match="head_size=3: expected none, since heads of HF GPT-2 keep theirs"):
        child_of(gpt2(), head_size=3)
    narrow = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2().config.to_dict() | {"n_embd": 12}))
    with pytest.raises(SubcloningError, match=r"axis dim.*head size must stay: choose"):
        make_plan(gpt2(), narrow, select="first", thin_heads=True)


def test_the_command_makes_them(tmp_path, capsys):
    BUILD["mistral"]().save_pretrained(tmp_path / "parent")
    subclone_command([str(tmp_path / "parent"), str(tmp_path / "child"), "--head-size", "4", "--scores", "weights"])
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "child").config.head_dim == 4
    capsys.readouterr()
    assert subclone_command([str(tmp_path / "parent"), str(tmp_path / "other"), "--head-size", "5", "--dry-run"]) == 1
    assert "head_size=5: expected one of 2, 4" in capsys.readouterr().err
