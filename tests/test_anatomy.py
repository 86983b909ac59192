"""A model seen through its table: what is shared and how, what kind of tensors it has, and which model it is."""

import copy

import pytest
import torch
import torch.distributed as dist
from tiny import gpt2, inputs, vit
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from subcloning import SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.method.anatomy import Anatomy
from subcloning.method.axes import Layout


def one_norm_twice(model):
    model.blocks[0].norm2 = model.blocks[0].norm1


def one_mlp_in_two_blocks(model):
    model.blocks[2].mlp = model.blocks[0].mlp


def one_head_twice(model):
    model.head_dist = model.head


def one_storage_twice(model):
    model.blocks[1].mlp.fc1.weight = nn.Parameter(model.blocks[0].mlp.fc1.weight.data)


@pytest.mark.parametrize("share", [one_norm_twice, one_mlp_in_two_blocks, one_head_twice, one_storage_twice])
def test_sharing_that_the_table_does_not_declare_is_refused(share):
    parent = vit(distilled=share is one_head_twice)
    share(parent)
    with pytest.raises(SubcloningError, match=r"(norm1|fc1|head).* and .* are one tensor.*Family.tied"):
        score(parent, [inputs(parent)])


def head_first(model):
    """The same model, its head registered before the embedding that it is tied to."""
    model._modules = {name: model._modules[name] for name in ("lm_head", "transformer")}
    return model


@pytest.mark.parametrize("select", ["importance", "principal"])
def test_a_tied_tensor_goes_by_the_embedding_whatever_was_registered_first(select):
    parent, child = gpt2(), gpt2(heads=2, seed=9)
    turned, turned_child = (head_first(copy.deepcopy(model)) for model in (parent, child))
    assert next(iter(turned.state_dict())) == "lm_head.weight"
    assert Anatomy(turned).aliases["lm_head.weight"] == "transformer.wte.weight"
    scores = score(parent, [inputs(parent)], stream=True)
    plan = make_plan(parent, child, scores, select=select)
    other = make_plan(turned, turned_child, score(turned, [inputs(parent)], stream=True), select=select)
    wanted, found = apply_plan(plan, parent, child).state_dict(), apply_plan(other, turned, turned_child).state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize(
    ("dtype", "message"), [(torch.float8_e4m3fn, "float8_e4m3fn"), (torch.int8, "int8")], ids=["float8", "int8"]
)
def test_quantised_parents_are_refused(dtype, message):
    parent = vit()
    parent.head.weight = nn.Parameter(parent.head.weight.data.to(dtype), requires_grad=False)
    with pytest.raises(SubcloningError, match=rf"head.weight has dtype torch.{message}.*unquantised"):
        make_plan(parent, vit(heads=2), select="first")


def test_sharded_parents_are_refused():
    parent = vit()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = distribute_tensor(parent.head.weight.data, init_device_mesh("cpu", (1,)))
        parent.head.weight = nn.Parameter(weight)
        with pytest.raises(SubcloningError, match=r"head.weight is a DTensor, expected a whole tensor.*gather"):
            make_plan(parent, vit(heads=2), select="first")
    finally:
        dist.destroy_process_group()


def test_a_child_from_inference_mode_is_refused():
    with torch.inference_mode():
        child = vit(heads=2)
    with pytest.raises(SubcloningError, match=r"torch.inference_mode.*build it outside"):
        subclone(vit(), child, select="first")


def test_a_one_among_the_axes_that_a_layer_sums_over_is_no_axis():
    assert Layout.parse("residual <- 1 hidden").fan_in == ("hidden",)
    with pytest.raises(SubcloningError, match=r"'residual <- 7'.*name the 7"):
        Layout.parse("residual <- 7")


@pytest.mark.parametrize("build", [vit, gpt2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_a_parent_hold_for_it_in_another_dtype(build, dtype):
    parent, child = build(), build(heads=2)
    scores = score(parent, [inputs(parent)])
    other = copy.deepcopy(parent).to(dtype)
    plan = make_plan(other, child, scores)
    assert all(torch.equal(kept, plan.maps[key]) for key, kept in make_plan(parent, child, scores).maps.items())
    with pytest.raises(SubcloningError, match="another parent"):
        make_plan(build(seed=3).to(dtype), child, scores)
