"""`verify` passes every supported variant, and shows what a family's author can get wrong without a word."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from residual_mlp import ResidualMLP, residual_mlp
from timm.models.vision_transformer import ResPostBlock
from tiny import VARIANTS, inputs, randomise, vit
from torch import nn

from subcloning import SubcloningError, score, verify
from subcloning.method.axes import FAMILIES


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_describes_its_models(variant):
    build, options = VARIANTS[variant]
    model = build(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = inputs(model)
    batch = x if x.is_floating_point() else {"input_ids": x}
    found = verify(model, batch, rotate=variant != "vit_pre_norm")
    assert found.permuted < 1e-5
    assert variant == "vit_pre_norm" or found.rotated < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_without_a_head_is_permuted_with_its_outputs():
    model = vit(num_classes=0)
    assert max(verify(model, inputs(model))) < 1e-5


@pytest.mark.parametrize(
    "options",
    [{"global_pool": "max"}, {"global_pool": "avgmax"}, {"block_fn": ResPostBlock}],
    ids=["max", "avgmax", "rpn"],
)
def test_variants_that_can_be_permuted_only(options):
    """Their tensors have the names of the others; rotated in silence, they were wrong by a third or more."""
    model = vit(**options)
    assert verify(model, inputs(model), rotate=False).permuted < 1e-5
    with pytest.raises(SubcloningError, match=r"cannot be rotated.*(maximum|ResPostBlock).*select='importance'"):
        score(model, [inputs(model)], stream=True)


def test_a_pooling_that_attends_is_refused():
    model = vit(global_pool="prr")
    with pytest.raises(SubcloningError, match="not supported: global_pool='prr'"):
        score(model, [inputs(model)])


class OwnLayerNorm(nn.Module):
    """Centres, but is no nn.LayerNorm."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class OnePlusNorm(nn.RMSNorm):
    def forward(self, x):
        return nn.functional.rms_norm(x, x.shape[-1:], 1 + self.weight)


@contextmanager
def changed(table=None, **fields):
    """The residual MLP's family, with some rows or fields changed."""
    with residual_mlp() as family:
        FAMILIES[family.model_class] = dataclasses.replace(family, table={**family.table, **(table or {})}, **fields)
        yield


def mlp(norm=nn.RMSNorm, width=16, hidden=24):
    return randomise(ResidualMLP(width, hidden, 3, norm))


BLOCK_NORM = {"layers.{block}.norm": ("layers.{block}.up", "layers.{block}.gate")}


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm, OwnLayerNorm])
def test_what_a_norm_does_is_found_out_and_not_told_by_its_class(norm):
    with residual_mlp():
        assert max(verify(mlp(norm), torch.randn(5, 7))) < 1e-4


@pytest.mark.parametrize(
    ("fields", "norm", "message"),
    [
        ({"norms": {**BLOCK_NORM, "norm": ("haed",)}}, nn.RMSNorm, "gain of norm folds"),
        ({"norms": {"layers.{block}.norm": ("layers.{block}.up",), "norm": ("head",)}}, nn.RMSNorm, "rotating"),
        ({"norms": BLOCK_NORM}, nn.RMSNorm, "rotating"),
        ({"norms": {**BLOCK_NORM, "nrom": ("head",)}}, nn.RMSNorm, "rotating"),
        ({}, OnePlusNorm, "rotating"),
        ({"table": {"layers.{block}.up.weight": "hidden residual"}}, nn.RMSNorm, "sums over residual: the arrow"),
        ({"table": {"stem.weight": "residual -> feature"}}, nn.RMSNorm, "sums over feature: the arrow"),
    ],
    ids=["reader misspelt", "reader forgotten", "norm forgotten", "norm misspelt", "1 + w", "no arrow", "wrong way"],
)
def test_what_an_author_gets_wrong_is_shown(fields, norm, message):
    with changed(**fields), pytest.raises(SubcloningError, match=message):
        verify(mlp(norm), torch.randn(5, 7))


def test_swapped_axes_of_a_square_matrix_are_shown():
    swapped = {"layers.{block}.down.weight": "hidden <- residual"}
    with changed(table=swapped), pytest.raises(SubcloningError, match="permuting its units moves its outputs by"):
        verify(mlp(hidden=16), torch.randn(5, 7))
