"""What cannot be done is refused in one clear sentence, before anything is copied."""

import copy
import re

import pytest
import timm
import torch
from tiny import gpt2, inputs, vit

from subcloning import Plan, SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.method.axes import Layout

REFUSED = {
    "head size": (vit, {"heads": 2, "head_dim": 12}, r"qkv.weight, axis dim: the parent has 6 and the child 12.*head"),
    "head size gpt2": (
        gpt2,
        {"heads": 2, "head_dim": 12},
        r"c_attn.weight, axis dim: the parent has 6 and the child 12",
    ),
    "wider": (vit, {"heads": 8}, r"axis residual: the parent has 24 and the child 48.*growth"),
    "more hidden": (gpt2, {"mlp_ratio": 3.0}, r"c_fc.weight, axis hidden: the parent has 48 and the child 72"),
    "patch": (vit, {"patch_size": 2, "img_size": 4}, r"patch_embed.proj.weight, axis height: .* 4 and the child 2"),
    "image": (vit, {"img_size": 16}, r"pos_embed, axis token: the parent has 5 and the child 17"),
    "classes": (vit, {"num_classes": 7}, r"head.weight, axis label: .*ignore_mismatched=\['label'\]"),
    "vocabulary": (gpt2, {"vocab_size": 40}, r"wte.weight, axis vocab: the parent has 37 and the child 40"),
    "context": (gpt2, {"n_positions": 8}, r"wpe.weight, axis token: the parent has 16 and the child 8"),
    "parent's bias": (vit, {"qkv_bias": False}, r"no tensor for the parent's blocks.{block}.attn.qkv.bias"),
    "child's layer scale": (vit, {"init_values": 0.1}, r"no tensor for the child's blocks.0.ls1.gamma"),
    "pooling": (vit, {"global_pool": "avg", "fc_norm": False}, r"global_pool: the parent has token and the child avg"),
    "activation": (vit, {"act_layer": "relu"}, r"mlp.act: .* GELU.* and the child ReLU"),
    "epsilon": (gpt2, {"layer_norm_epsilon": 1e-3}, r"config.layer_norm_epsilon: the parent has 1e-05 and .* 0.001"),
    "no head": (vit, {"num_classes": 0}, r"no tensor for the parent's head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shapes_that_cannot_be_reconciled(case):
    build, options, message = REFUSED[case]
    parent, child = build(), build(seed=9, **options)
    before = copy.deepcopy(child.state_dict())
    with pytest.raises(SubcloningError, match=message):
        subclone(parent, child, select="first")
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state_dict().items())


def test_other_families_and_classes():
    with pytest.raises(SubcloningError, match="parent is a timm ViT and child a HF GPT-2"):
        make_plan(vit(), gpt2(), select="first")
    with pytest.raises(SubcloningError, match=r"no model family for Linear; known classes"):
        score(torch.nn.Linear(2, 2), [torch.zeros(1, 2)])
    with pytest.raises(SubcloningError, match=r"attn_pool.* has no rows in the timm ViT table"):
        score(vit(global_pool="map"), [torch.zeros(1, 3, 8, 8)])
    other = vit()
    other.blocks[1].mlp.fc2 = torch.nn.Linear(36, 24)
    with pytest.raises(SubcloningError, match=r"fc2.weight .* size 36 cannot be \(hidden\) where {'hidden': 48}"):
        score(other, [torch.zeros(1, 3, 8, 8)])


def test_tied_child_of_an_untied_parent():
    with pytest.raises(SubcloningError, match=r"lm_head.weight is tied in the child but not in the parent"):
        make_plan(gpt2(tie_word_embeddings=False), gpt2(heads=2), select="first")


def test_allowed_mismatches_keep_the_childs_own_values():
    parent, child = vit(), vit(heads=2, num_classes=7, seed=9)
    before = copy.deepcopy(child.state_dict())
    plan = make_plan(parent, child, select="first", ignore_mismatched=["label"])
    assert plan.fresh == ["head.weight", "head.bias"]
    assert "not copied: head.weight, head.bias" in str(plan)
    apply_plan(plan, parent, child)
    same = [name for name, tensor in child.state_dict().items() if torch.equal(before[name], tensor)]
    assert same == plan.fresh

    parent, child = gpt2(), gpt2(heads=2, vocab_size=40, seed=9)
    before = child.transformer.wte.weight.clone()
    subclone(parent, child, select="first", ignore_mismatched=["vocab"])
    assert torch.equal(child.transformer.wte.weight, before)
    assert child.lm_head.weight is child.transformer.wte.weight


def test_settings_may_differ_where_that_is_meant():
    parent, child = vit(), vit(heads=2, act_layer="relu")
    plan = make_plan(parent, child, select="first", ignore_mismatched="blocks.0.mlp.act")
    assert plan.fresh == []
    apply_plan(plan, parent, child)
    with pytest.raises(SubcloningError, match=r"mlp\.act"):  # of a plan, too, that was made for others
        apply_plan(make_plan(parent, vit(heads=2), select="first"), parent, child)


def test_a_parent_without_a_head_leaves_the_childs_as_it_is():
    parent, child = vit(num_classes=0), vit(heads=2, seed=9)
    before = child.head.weight.clone()
    subclone(parent, child, select="first", ignore_mismatched=["label"])
    assert torch.equal(child.head.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "select='best': expected one of importance"),
        ({"select": {"residual": "first"}}, "one of them for each of residual, head, hidden"),
        ({"select": "first", "blocks": "best"}, "blocks='best': expected one of middle, first"),
        ({}, "needs scores"),
        ({"select": "least"}, "needs scores"),
        ({"select": "first", "blocks": [0, 1]}, "expected 3 parent blocks"),
        ({"select": "first", "blocks": [0, 1, 3]}, "each from 0 to 2"),
        ({"select": "first", "ignore_mismatched": ["residual"]}, r"ignore_mismatched=\['residual'\]: expected some of"),
        ({"select": "first", "ignore_mismatched": ["dim"]}, r"ignore_mismatched=\['dim'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SubcloningError, match=message):
        make_plan(vit(), vit(heads=2), **options)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_scores_of_another_parent(build):
    other = build(seed=1)
    with pytest.raises(SubcloningError, match="scores are of another parent"):
        make_plan(build(), build(heads=2), score(other, [inputs(other)]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("build", [vit, gpt2])
def test_parent_with_bad_weights(build, value):
    parent, child = build(), build(heads=2, seed=9)
    last = list(parent.named_parameters())[-1]
    with torch.no_grad():
        last[1].view(-1)[-1] = value
    before = copy.deepcopy(child.state_dict())
    with pytest.raises(SubcloningError, match=re.escape(last[0]) + " holds NaN or infinite"):
        subclone(parent, child, select="first")
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state_dict().items())


def test_plan_for_other_shapes_or_without_values():
    parent, child = vit(), vit(heads=2)
    plan = make_plan(parent, child, select="first")
    with pytest.raises(SubcloningError, match="residual: the plan takes 24 to 12, these models are 24 and 18"):
        apply_plan(plan, parent, vit(heads=3))
    with pytest.raises(SubcloningError, match=r"blocks"):
        apply_plan(plan, vit(depth=4), child)
    with pytest.raises(SubcloningError, match="the plan is for timm ViT"):
        apply_plan(plan, gpt2(), gpt2())
    with pytest.raises(SubcloningError, match="child is on the meta device"):
        apply_plan(plan, parent, copy.deepcopy(child).to("meta"))


@pytest.mark.parametrize(
    ("build", "planned", "given", "message"),
    [
        (vit, {}, {"init_values": 0.1}, "the parent has no tensor for the child's blocks.0.ls1.gamma"),
        (vit, {}, {"qkv_bias": False}, "the child has no tensor for the parent's blocks.{block}.attn.qkv.bias"),
    ],
)
def test_plan_for_a_child_of_another_kind(build, planned, given, message):
    parent, child = build(), build(heads=2, seed=9, **given)
    plan = make_plan(parent, build(heads=2, **planned), select="first")
    before = copy.deepcopy(child.state_dict())
    with pytest.raises(SubcloningError, match=message):
        apply_plan(plan, parent, child)
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state_dict().items())


def test_a_plan_for_an_untied_child_does_not_fit_a_tied_one():
    parent = gpt2(tie_word_embeddings=False)
    plan = make_plan(parent, gpt2(heads=2, tie_word_embeddings=False), select="first")
    with pytest.raises(SubcloningError, match="tied in the child but not in the parent"):
        apply_plan(plan, parent, gpt2(heads=2))


def test_child_that_is_the_parent():
    parent = vit()
    with pytest.raises(SubcloningError, match="share memory"):
        apply_plan(make_plan(parent, parent, select="first", blocks=[2, 1, 0]), parent, parent)


def test_scores_of_another_width_with_a_parent_that_has_no_values():
    wide = vit(heads=8)
    scores = score(wide, [inputs(wide)])
    with pytest.raises(SubcloningError, match="48 for residual, which has 24"):
        make_plan(vit().to("meta"), vit(heads=2), scores)


def test_incomplete_plan():
    parent, child = vit(), vit(heads=2)
    plan = make_plan(parent, child, select="first")
    del plan.maps["hidden.1"]
    with pytest.raises(SubcloningError, match=r"no map of 24 indices for blocks.1.mlp.fc1.weight, axis hidden"):
        apply_plan(plan, parent, child)


def test_variants_that_the_table_does_not_describe():
    with pytest.raises(SubcloningError, match="has no rows"):
        score(timm.create_model("vit_small_patch16_18x2_224", depth=1), [torch.zeros(1, 3, 224, 224)])
    with pytest.raises(SubcloningError, match="has no blocks"):
        score(vit(depth=0), [torch.zeros(1, 3, 8, 8)])


def test_a_child_without_a_head():
    parent, child = vit(), vit(heads=2, num_classes=0)
    plan = make_plan(parent, child, select="first", ignore_mismatched="label")
    apply_plan(plan, parent, child)
    assert torch.equal(child.norm.weight, parent.norm.weight[:12])


def test_damaged_plan_file(tmp_path):
    plan = make_plan(vit(), vit(heads=2), select="first")
    plan.save(tmp_path / "plan.safetensors")
    data = (tmp_path / "plan.safetensors").read_bytes()
    (tmp_path / "plan.safetensors").write_bytes(data[:-9])
    with pytest.raises(SubcloningError, match=r"plan.safetensors is damaged"):
        Plan.load(tmp_path / "plan.safetensors")


@pytest.mark.parametrize("text", ["", "a <- b -> c", "(a b", "a <- ", "a-b"])
def test_bad_notation(text):
    with pytest.raises(SubcloningError, match="axes"):
        Layout.parse(text)


def test_notation():
    layout = Layout.parse("(qkv head dim) <- residual")
    assert layout.dims == (("qkv", "head", "dim"), ("residual",))
    assert layout.fan_in == ("residual",)
    assert layout.einops == ("(qkv0 head1 dim2) (residual3)", ("qkv0", "head1", "dim2", "residual3"))
    assert Layout.parse("residual <- residual").einops[1] == ("residual0", "residual1")
    assert Layout.parse("hidden -> residual").fan_in == ("hidden",)
    assert Layout.parse("residual <- channel height width").fan_in == ("channel", "height", "width")
    assert Layout.parse("1 token residual").fan_in == ()
