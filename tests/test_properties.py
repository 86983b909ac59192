"""What subcloning must be, on small random models of both families and of any shape."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.layers import Attention
from tiny import VARIANTS, gpt2, inputs, outputs, randomise, vit
from torch import nn
from transformers.pytorch_utils import Conv1D

from subcloning import Plan, Scores, apply_plan, make_plan, permute, score, subclone
from subcloning.method.anatomy import Anatomy
from subcloning.method.matching import SELECTIONS
from subcloning.method.plan import _kept_blocks

variants = pytest.mark.parametrize("variant", VARIANTS)
# A norm before the blocks is a gain on the stream itself, so that it cannot be rotated.
each_selection = pytest.mark.parametrize(
    ("variant", "select"), [pair for pair in product(VARIANTS, SELECTIONS) if pair != ("vit_pre_norm", "principal")]
)
families = pytest.mark.parametrize("build", [vit, gpt2])
shapes = st.fixed_dictionaries(
    {"heads": st.integers(1, 4), "mlp_ratio": st.sampled_from([1.0, 2.0, 3.0]), "depth": st.integers(1, 6)}
)
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pair(variant, **child_shape):
    build, options = VARIANTS[variant]
    return build(**options), build(**{"heads": 2, "seed": 9} | child_shape, **options)


def state(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@variants
def test_permuting_leaves_outputs_unchanged(variant):
    build, options = VARIANTS[variant]
    parent = build(mlp_ratio=3.0, **options)
    x = inputs(parent)
    permuted = permute(parent, score(parent, [x]))
    assert not equal(state(parent), state(permuted))
    torch.testing.assert_close(outputs(permuted, x), outputs(parent, x), atol=1e-5, rtol=1e-5)


@variants
def test_importance_is_the_first_units_of_the_permuted_parent(variant):
    """The paper's own procedure: reorder the parent, then cut the leading rows and columns (Fig. 4)."""
    parent, child = pair(variant, depth=2)
    scores = score(parent, [inputs(parent)])
    direct = state(subclone(parent, child, scores=scores))
    permuted = permute(parent, scores)
    assert equal(direct, state(subclone(permuted, pair(variant, depth=2, seed=5)[1], select="first")))


@each_selection
def test_equal_shapes_copy_exactly(variant, select):
    build, options = VARIANTS[variant]
    parent = build(**options)
    assert equal(state(subclone(parent, build(seed=9, **options), [inputs(parent)], select=select)), state(parent))


@families
@some
@given(shape=shapes, child_shape=shapes, select=st.sampled_from(SELECTIONS), seed=st.integers(0, 3))
def test_any_shape(build, shape, child_shape, select, seed):
    """Every child tensor is filled, the parent is left as it was, and the child runs."""
    for axis in ("heads", "mlp_ratio"):
        child_shape[axis] = min(child_shape[axis], shape[axis])
    # The hidden size is mlp_ratio * width, so it cannot outgrow the parent's either.
    parent, child = build(**shape), build(**child_shape)
    before = state(parent)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.fill_(torch.nan)  # whatever is not covered stays NaN
    scores = score(parent, [inputs(parent)], stream=True)
    plan = make_plan(parent, child, scores, select=select, seed=seed)
    apply_plan(plan, parent, child)
    assert all(p.isfinite().all() for p in child.parameters())
    assert equal(before, state(parent))
    assert torch.isfinite(outputs(child, inputs(child))).all()


@each_selection
def test_saved_plan_and_scores_give_identical_weights(variant, select, tmp_path):
    parent, child = pair(variant, depth=2)
    scores = score(parent, [inputs(parent)], stream=select == "principal")
    scores.save(tmp_path / "scores.safetensors")
    plan = make_plan(parent, child, Scores.load(tmp_path / "scores.safetensors"), select=select, seed=3)
    plan.save(tmp_path / "plan.safetensors")
    loaded = Plan.load(tmp_path / "plan.safetensors")
    assert str(loaded) == str(plan)
    assert equal(plan.maps, loaded.maps)
    again = apply_plan(loaded, parent, copy.deepcopy(child))
    assert equal(state(again), state(subclone(parent, child, scores=scores, select=select, seed=3)))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["plan.safetensors", "scores.safetensors"]


# What the residual stream touches, told from the modules and not from the tables: (tensor, dimension).
def residual_tensors(model):
    width = model.embed_dim if hasattr(model, "embed_dim") else model.config.hidden_size
    for name, module in model.named_modules():
        # These write to the stream, all other matrices read it.
        writes = name.endswith((".proj", ".fc2", ".c_proj", ".o_proj", ".down_proj"))
        if type(module).__name__.endswith("Norm") and not name.endswith(("q_norm", "k_norm")):
            yield from [(f"{name}.{kind}", 0) for kind, _ in module.named_parameters()]
        elif isinstance(module, nn.Linear | Conv1D | nn.Conv2d):
            out_first = not isinstance(module, Conv1D)
            yield f"{name}.weight", 0 if writes == out_first else 1
            if writes and module.bias is not None:
                yield f"{name}.bias", 0
        elif isinstance(module, nn.Embedding):
            yield f"{name}.weight", 1
    for name, parameter in model.named_parameters():
        if name in ("cls_token", "dist_token", "reg_token", "pos_embed") or name.endswith(".gamma"):
            assert parameter.shape[-1] == width
            yield name, parameter.ndim - 1


@variants
@pytest.mark.parametrize("select", ["importance", "random"])
def test_residual_tensors_share_one_index_vector(variant, select):
    parent, child = pair(variant)
    scores = score(parent, [inputs(parent)])
    plan = make_plan(parent, child, scores, select=select)
    kept = plan.maps["residual"]
    named = dict(parent.named_parameters(remove_duplicate=False))
    touched = list(residual_tensors(parent))
    with torch.no_grad():
        for name, dim in touched:  # every value becomes its own residual coordinate
            shape = [-1 if d == dim else 1 for d in range(named[name].ndim)]
            named[name].copy_(torch.arange(named[name].shape[dim]).float().view(shape).expand_as(named[name]))
    apply_plan(plan, parent, child, scale=False)
    values = dict(child.named_parameters(remove_duplicate=False))
    assert len(touched) > 20
    for name, dim in touched:
        found = values[name].movedim(dim, 0).flatten(1) if values[name].ndim > 1 else values[name].unsqueeze(1)
        assert torch.equal(found, kept.float().unsqueeze(1).expand_as(found)), name


def attention_of_two_heads(build):
    """A child of the parent's width with two of its four heads, which neither library builds by itself."""
    child = build(mlp_ratio=1.0, depth=2)
    for block in child.blocks if build is vit else child.transformer.h:
        if build is vit:
            block.attn = Attention(24, num_heads=2, attn_head_dim=6, qkv_bias=True)
        else:
            block.attn.c_attn, block.attn.c_proj = Conv1D(36, 24), Conv1D(24, 12)
            block.attn.num_heads, block.attn.split_size = 2, 12
    return randomise(child, seed=9)


@families
@pytest.mark.parametrize("select", ["importance", "uniform", "random"])
def test_cut_heads_hidden_units_and_blocks_are_as_if_silenced(build, select):
    parent, child = build(), attention_of_two_heads(build)
    x = inputs(parent)
    plan = make_plan(parent, child, score(parent, [x]), select=select)
    apply_plan(plan, parent, child, scale=False)
    silenced = copy.deepcopy(parent)
    blocks = silenced.blocks if build is vit else silenced.transformer.h
    with torch.no_grad():
        for number, block in enumerate(blocks):
            attention, mlp = (block.attn.proj, block.mlp.fc2) if build is vit else (block.attn.c_proj, block.mlp.c_proj)
            if number not in plan.blocks:
                for parameter in [*attention.parameters(), *mlp.parameters()]:
                    parameter.zero_()
                continue
            position = plan.blocks.index(number)
            heads = set(range(4)) - set(plan.maps[f"head.{position}"].tolist())
            hidden = set(range(48)) - set(plan.maps[f"hidden.{position}"].tolist())
            reads = (lambda m: m.weight.T) if build is vit else (lambda m: m.weight)
            reads(attention)[[head * 6 + i for head in heads for i in range(6)]] = 0
            reads(mlp)[list(hidden)] = 0
    assert len(plan.blocks) == 2
    assert not torch.allclose(outputs(silenced, x), outputs(parent, x), atol=1e-2)
    torch.testing.assert_close(outputs(child, x), outputs(silenced, x), atol=1e-5, rtol=1e-5)


@variants
def test_scaling_factors(variant):
    """sqrt(fan-in ratio) on every linear layer, 1 on all else; fan-ins are the modules' own."""
    parent, child = pair(variant, mlp_ratio=1.0)
    plan = make_plan(parent, child, select="uniform")
    plain = state(apply_plan(plan, parent, copy.deepcopy(child), scale=False))
    scaled = state(apply_plan(plan, parent, copy.deepcopy(child), scale_tied=False))
    expected = dict.fromkeys(plain, 1.0)
    for name, module in child.named_modules():
        mother = parent.get_submodule(name)
        if isinstance(module, nn.Linear) and f"{name}.weight" in dict(child.named_parameters()):
            expected[f"{name}.weight"] = (mother.in_features / module.in_features) ** 0.5
        elif isinstance(module, Conv1D):
            expected[f"{name}.weight"] = (mother.weight.shape[0] / module.weight.shape[0]) ** 0.5
    assert sum(factor != 1 for factor in expected.values()) >= 12
    for name, factor in expected.items():
        torch.testing.assert_close(scaled[name], plain[name] * factor, rtol=1e-7, atol=0)


@variants
def test_tables_cover_every_tensor_once(variant):
    build, options = VARIANTS[variant]
    model = build(**options)
    anatomy = Anatomy(model)
    assert set(anatomy.tensors) == set(dict(model.named_parameters()))
    for name, tensor in anatomy.tensors.items():
        sizes = [[anatomy.size(axis, anatomy.blocks[name]) for axis in dim] for dim in anatomy.layouts[name].dims]
        assert tuple(torch.tensor(dim).prod().item() for dim in sizes) == tuple(tensor.shape)


def test_tied_weights_stay_tied():
    parent, child = gpt2(), gpt2(heads=2, seed=9)
    subclone(parent, child, [inputs(parent)])
    assert child.lm_head.weight is child.transformer.wte.weight


def test_tied_parent_to_untied_child_scales_only_the_head():
    parent, child = gpt2(), gpt2(heads=2, seed=9, tie_word_embeddings=False)
    subclone(parent, child, select="first")
    torch.testing.assert_close(child.lm_head.weight, child.transformer.wte.weight * 2**0.5)


def test_scaling_a_tied_head_gives_the_logits_of_a_scaled_untied_one():
    parent, tied = gpt2(), gpt2(heads=2, seed=9)
    untied = gpt2(heads=2, seed=9, tie_word_embeddings=False)
    x = inputs(parent)
    subclone(parent, untied, select="uniform")
    plain = outputs(subclone(parent, tied, select="uniform", scale_tied=False), x)
    torch.testing.assert_close(plain * 2**0.5, outputs(untied, x))
    torch.testing.assert_close(outputs(subclone(parent, tied, select="uniform"), x), outputs(untied, x))
    assert tied.lm_head.weight is tied.transformer.wte.weight


@variants
def test_scale_tied_is_for_tied_heads_only(variant):
    parent, child = pair(variant)
    plan = make_plan(parent, child, select="first")
    with_it = state(apply_plan(plan, parent, copy.deepcopy(child)))
    without = state(apply_plan(plan, parent, copy.deepcopy(child), scale_tied=False))
    differing = {name for name in without if not torch.equal(with_it[name], without[name])}
    norms = {"gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"}}
    norms |= {name: {"model.norm.weight"} for name in ("llama_tied", "qwen3")}
    assert differing == norms.get(variant, set())
    off = state(apply_plan(plan, parent, copy.deepcopy(child), scale=False))
    assert equal(off, state(apply_plan(plan, parent, copy.deepcopy(child), scale=False, scale_tied=False)))


@families
@pytest.mark.parametrize("parent_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("child_dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_child_keeps_its_dtype_and_is_rounded_once(build, parent_dtype, child_dtype):
    parent, child = build().to(parent_dtype), build(heads=2, seed=9).to(child_dtype)
    plan = make_plan(parent, child, select="uniform")
    apply_plan(plan, parent, child)
    exact = apply_plan(plan, copy.deepcopy(parent).double(), build(heads=2, seed=9).double())
    for mine, other in zip(child.parameters(), exact.parameters(), strict=True):
        assert mine.dtype == child_dtype
        # Through the finer of both dtypes, where the product is rounded before it is rounded to the child's.
        finer = torch.finfo(torch.promote_types(parent_dtype, child_dtype)).eps
        torch.testing.assert_close(mine.double(), other.to(child_dtype).double(), rtol=finer, atol=1e-7)


@families
def test_plan_for_a_child_on_the_meta_device(build):
    parent = build()
    scores = score(parent, [inputs(parent)])
    real = build(heads=2)
    unborn = copy.deepcopy(real).to("meta")
    a, b = make_plan(parent, unborn, scores), make_plan(parent, real, scores)
    assert str(a) == str(b)
    assert equal(a.maps, b.maps)


@pytest.mark.parametrize(
    ("lost", "parent", "child", "blocks"),
    [
        ("middle", 36, 24, [*range(12), *range(24, 36)]),
        ("middle", 48, 24, [*range(12), *range(36, 48)]),
        ("middle", 12, 5, [0, 1, 2, 10, 11]),
        ("middle", 3, 1, [0]),
        ("middle", 4, 6, [0, 1, 1, 2, 2, 3]),
        ("middle", 3, 4, [0, 1, 1, 2]),
        ("middle", 2, 5, [0, 0, 1, 1, 1]),
        ("first", 5, 3, [2, 3, 4]),
        ("last", 5, 3, [0, 1, 2]),
        ("uniform", 6, 4, [0, 2, 3, 5]),
        ("uniform", 4, 1, [0]),
        ("last", 2, 3, [0, 1, 1]),
    ],
)
def test_kept_blocks(lost, parent, child, blocks):
    assert _kept_blocks(lost, parent, child) == blocks


@variants
def test_a_rule_for_each_axis(variant):
    parent, child = pair(variant, depth=2)
    scores = score(parent, [inputs(parent)])
    plan = make_plan(parent, child, scores, select={"residual": "uniform", "head": "importance", "hidden": "first"})
    alone = {rule: make_plan(parent, child, scores, select=rule) for rule in ("uniform", "importance", "first")}
    assert torch.equal(plan.maps["residual"], alone["uniform"].maps["residual"])
    assert torch.equal(plan.maps["head.1"], alone["importance"].maps["head.1"])
    assert torch.equal(plan.maps["hidden.1"], alone["first"].maps["hidden.1"])
    assert "select=residual=uniform head=importance hidden=first" in str(plan)


@families
def test_deeper_child_repeats_blocks(build):
    parent, child = build(depth=2), build(depth=4, seed=9)
    plan = make_plan(parent, child, select="first")
    apply_plan(plan, parent, child)
    blocks = (lambda m: m.blocks) if build is vit else (lambda m: m.transformer.h)
    for mine, number in zip(blocks(child), [0, 0, 1, 1], strict=True):
        assert equal(state(mine), state(blocks(parent)[number]))
