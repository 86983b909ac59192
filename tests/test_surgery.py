"""Applying a plan: what it must not change, what it must not get wrong in silence, and rotation's corner cases."""

import copy

import pytest
import torch
from tiny import gpt2, inputs, outputs, vit
from torch import nn

from subcloning import SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.files import load_tensors, save_tensors
from subcloning.method.anatomy import Anatomy
from subcloning.method.axes import Layout
from subcloning.method.principal import is_centred, neuronwise, principal_map
from subcloning.method.surgery import transplant


def state(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def principal(parent, child):
    return make_plan(parent, child, score(parent, [inputs(parent)], stream=True), select="principal")


def rotation(parent, child):
    """A plan that cuts nothing, but rotates the stream."""
    plan, anatomy = make_plan(parent, child, select="first"), Anatomy(parent)
    size = anatomy.sizes["residual"]
    stream = score(parent, [inputs(parent)], stream=True).stream
    plan.maps["residual"], _ = principal_map(stream, size, is_centred(anatomy))
    names = Anatomy(child).rows.items()
    plan.maps.update({f"{n}:residual": torch.arange(size) for n, row in names if row in neuronwise(anatomy.family)})
    return plan


@pytest.mark.parametrize("select", ["importance", "principal"])
def test_autocast_has_no_effect(select):
    parent, child = vit(), vit(heads=2)
    plan = make_plan(parent, child, score(parent, [inputs(parent)], stream=True), select=select)
    wanted = state(apply_plan(plan, parent, copy.deepcopy(child)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = state(apply_plan(plan, parent, child))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_factor_where_nothing_was_cut_leaves_the_source_as_it_was():
    source, target = torch.ones(3), torch.empty(3)
    transplant(source, target, Layout.parse("residual"), {"residual": None}, {}, 2.0)
    assert source.tolist() == [1, 1, 1]
    assert target.tolist() == [2, 2, 2]


def test_what_overflows_the_child_is_named():
    parent, child = vit(), vit(heads=2).half()
    with torch.no_grad():
        parent.blocks[1].mlp.fc1.weight.mul_(1e6)
    with pytest.raises(SubcloningError, match=r"blocks.1.mlp.fc1.weight overflows the child's torch.float16"):
        subclone(parent, child, select="first")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda maps: maps["residual"][0, 0].fill_(torch.nan), r"axis residual.*rows of finite numbers: make it again"),
        (lambda maps: maps["hidden.1"][0].fill_(48), r"fc1.weight, axis hidden, which are below 48"),
        (lambda maps: maps["head.0"][0].fill_(-1), r"qkv.weight, axis head, which are below 4"),
    ],
    ids=["NaN in a matrix", "index too large", "index below zero"],
)
def test_damaged_plans_are_refused_before_anything_is_copied(damage, message):
    parent, child = vit(), vit(heads=2)
    plan, before = principal(parent, child), state(child)
    damage(plan.maps)
    with pytest.raises(SubcloningError, match=message):
        apply_plan(plan, parent, child)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(child).items())


def test_a_head_without_a_norm_has_no_factor_when_rotated():
    parent, child = (vit(heads=heads, final_norm=False) for heads in (4, 2))
    assert isinstance(parent.norm, nn.Identity)
    plan = principal(parent, child)
    apply_plan(plan, parent, child)
    torch.testing.assert_close(child.head.weight, parent.head.weight @ plan.maps["residual"].T)
    torch.testing.assert_close(
        outputs(apply_plan(rotation(parent, parent), parent, copy.deepcopy(parent)), inputs(parent)),
        outputs(parent, inputs(parent)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_tied_head_leaves_the_bias_of_its_norm_unscaled_when_rotated():
    """The factor undoes what the norm divides by; the bias comes after that."""
    parent, child = gpt2(), gpt2(heads=2, seed=9)
    plan = principal(parent, child)
    apply_plan(plan, parent, child)
    rows, final = plan.maps["residual"], parent.transformer.ln_f
    torch.testing.assert_close(child.transformer.ln_f.bias, rows @ final.bias, atol=1e-5, rtol=1e-5)
    factor = (2 * plan.energy) ** 0.5
    weights = plan.maps["transformer.ln_f.weight:residual"]
    torch.testing.assert_close(child.transformer.ln_f.weight, weights @ final.weight * factor, atol=1e-5, rtol=1e-5)


def test_an_untied_child_of_a_tied_parent_takes_the_whole_gain_of_the_final_norm():
    parent, child = gpt2(), gpt2(seed=9, tie_word_embeddings=False)
    with torch.no_grad():
        parent.transformer.ln_f.weight[::2] *= -2  # which its mean says nothing of
    x = inputs(parent)
    apply_plan(rotation(parent, child), parent, child)
    torch.testing.assert_close(outputs(child, x), outputs(parent, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.0, 1e-6])
def test_a_gain_of_nothing_where_readers_have_no_bias(gain):
    """The constant that the norm's bias adds is kept, with a bias of ordinary size."""
    parent = vit(qkv_bias=False)
    with torch.no_grad():
        for block in parent.blocks:
            block.norm1.weight[3] = gain
            block.norm1.bias[3] = 2.0
    x, child = inputs(parent), copy.deepcopy(parent)
    apply_plan(rotation(parent, child), parent, child)
    moved = (outputs(child, x) - outputs(parent, x)).norm() / outputs(parent, x).norm()
    assert moved < 0.02
    assert all(block.norm1.bias.abs().max() < 500 for block in child.blocks)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_constants_are_kept_where_the_stream_is_cut(qkv_bias):
    """What the first queries, keys and values are for a stream that the norm sees as nothing: biases alone."""
    parent, child = vit(qkv_bias=qkv_bias), vit(heads=2, seed=9, qkv_bias=qkv_bias)
    plan = principal(parent, child)
    apply_plan(plan, parent, child)

    def constant(model, heads=slice(None)):
        block = model.blocks[0]
        return block.attn.qkv(block.norm1(torch.zeros(1, model.embed_dim))).view(3, -1, 6)[:, heads]

    wanted = constant(parent, plan.maps["head.0"])
    if qkv_bias:
        torch.testing.assert_close(constant(child), wanted)
        return
    found = (constant(child) - wanted).norm()
    with torch.no_grad():
        norm = parent.blocks[0].norm1
        child.blocks[0].norm1.bias.copy_(plan.maps["residual"] @ (norm.bias / norm.weight))
    assert found < 0.9 * (constant(child) - wanted).norm()


def test_what_is_loaded_lies_where_a_new_tensor_would(tmp_path):
    """Else matrix products take another kernel on some processors, and the last bits differ."""
    save_tensors(tmp_path / "file", "maps", {}, {f"{size}": torch.ones(size, 3) for size in range(1, 20)})
    _, tensors = load_tensors(tmp_path / "file", "maps", {})
    assert {tensor.data_ptr() % 64 for tensor in tensors.values()} == {torch.ones(5, 3).data_ptr() % 64}
