"""Models are read as they compute, however they call their modules and wherever they are read."""

import copy

import pytest
import torch
from residual_mlp import ResidualMLP, residual_mlp
from test_properties import state
from tiny import gpt2, inputs, randomise, vit
from torch import nn

from subcloning import Probe, SubcloningError, make_plan, score
from subcloning.method.controls import match_spread
from subcloning.method.observe import hooked
from subcloning.method.refit import refit
from subcloning.method.scores import STATISTICS


class ByKeyword(ResidualMLP):
    """Its blocks and its last norm are called with keywords only."""

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x=x)
        return self.head(self.norm(x=x))


class Twice(ResidualMLP):
    """One block is used twice."""

    def forward(self, x):
        return self.head(self.norm(self.layers(self.layers[1](self.stem(x)))))


class Never(ResidualMLP):
    """One block is not used."""

    def forward(self, x):
        return self.head(self.norm(self.layers[0](self.layers[2](self.stem(x)))))


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, scale=None):
        return self.layer(x) * scale, "rest"


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Wrapped(nn.Linear(3, 3))

    def forward(self, x):
        y, rest = self.first(scale=torch.tensor(2.0), x=x)
        assert rest == "rest"
        return y


def test_hooks_get_and_give_values_of_keywords_and_tuples():
    model, x, seen = Pair(), torch.randn(2, 3), []
    wanted = model(x)
    with hooked(model, [("first", seen.append)]) as counts:
        model(x)
    assert counts == [1]
    assert seen[0].input is x
    torch.testing.assert_close(seen[0].output, wanted)
    with hooked(model, [("first", lambda call: call.again(call.output))]):
        twice = model(x)
    torch.testing.assert_close(twice, model(wanted))
    with hooked(model, [("first", lambda call: call.input)]):
        assert model(x) is x
    assert not model.first._forward_hooks
    torch.testing.assert_close(model(x), wanted)


def test_modules_that_are_called_by_keyword_are_scored():
    with residual_mlp():
        plain, other = randomise(ResidualMLP(16, 24, 3)), randomise(ByKeyword(16, 24, 3))
        a, b = (score(model, [torch.ones(5, 7)], stream=True) for model in (plain, other))
        for key in a.sums:
            torch.testing.assert_close(a.sums[key], b.sums[key])


@pytest.mark.parametrize(("model", "message"), [(Twice, "and layers.1.* 2 times"), (Never, "layers.1.* called 0")])
def test_modules_that_are_not_called_once_are_refused(model, message):
    with residual_mlp():
        parent, child = (randomise(model(16, hidden, 3)) for hidden in (24, 12))
        x = torch.randn(5, 7)
        with pytest.raises(SubcloningError, match=message):
            score(parent, [x])
        plan = make_plan(parent, child, select="first")
        with pytest.raises(SubcloningError, match=message):
            refit(plan, parent, child, [x])
        with pytest.raises(SubcloningError, match=message):
            match_spread(plan, parent, child, x)


def test_a_probe_of_another_size_is_refused():
    with residual_mlp() as family:
        family.probes["hidden"] = Probe("layers.{block}.down", "output", "hidden")
        with pytest.raises(SubcloningError, match="hidden in block 0 reads 16 neurons, expected hidden to be 24"):
            score(ResidualMLP(16, 24, 3), [torch.randn(5, 7)])


LENGTHS = (10, 7, 4, 1)


def sequences(model):
    x = inputs(model, batch=len(LENGTHS))
    return x, [row[None, :length] for row, length in zip(x, LENGTHS, strict=True)]


def padded(model, side="right"):
    """The same sequences as one batch; what stands in for nothing is a token like others."""
    x, alone = sequences(model)
    mask = torch.arange(x.shape[1]) < torch.tensor(LENGTHS)[:, None]
    if side == "right":
        return {"input_ids": x, "attention_mask": mask.long()}
    mask = mask.flip(1)
    filled = x.clone()
    filled[mask] = torch.cat(alone, 1)[0]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return {"input_ids": filled, "attention_mask": mask.long(), "position_ids": positions}


def next_token_loss(model, input_ids, attention_mask=None, position_ids=None):
    logits = model(input_ids, attention_mask=attention_mask, position_ids=position_ids).logits
    if attention_mask is None:
        return logits.logsumexp(-1).sum()
    return (logits.logsumexp(-1) * attention_mask).sum()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_padding_is_not_scored(statistic, side):
    parent = gpt2()
    options = {"statistic": statistic, "stream": True, "loss": next_token_loss if statistic == "taylor" else None}
    wanted = score(parent, sequences(parent)[1], **options)
    found = score(parent, [padded(parent, side)], **options)
    assert found.counts == wanted.counts
    assert found.positions == sum(LENGTHS)
    for place in wanted.places:
        torch.testing.assert_close(found.of(*place), wanted.of(*place), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.stream, wanted.stream, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.influence, wanted.influence, rtol=1e-4, atol=1e-6)


def test_padding_is_not_refitted_on():
    parent, child = gpt2(), gpt2(heads=2, seed=9)
    plan = make_plan(parent, child, select="first")
    made = [
        state(refit(plan, parent, copy.deepcopy(child), batches, ridge=0.1))
        for batches in (sequences(parent)[1], [padded(parent)], [padded(parent), padded(parent)])
    ]
    for name, wanted in made[0].items():
        for found in made[1:]:
            torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-3)


def test_spread_is_matched_without_padding():
    parent = gpt2()
    plan = make_plan(parent, gpt2(heads=2), select="first")
    batch, other = padded(parent), padded(parent)
    other["input_ids"] = torch.where(other["attention_mask"] == 1, other["input_ids"], 0)
    a, b = (state(match_spread(plan, parent, gpt2(heads=2, seed=9), x)) for x in (batch, other))
    assert all(torch.allclose(a[name], b[name], rtol=1e-4) for name in a)


def test_masks_that_do_not_say_what_is_padding():
    parent = gpt2()
    x = inputs(parent)
    causal = torch.ones(1, 1, 10, 10, dtype=torch.bool).tril()
    with pytest.raises(SubcloningError, match=r"attention_mask \(1, 1, 10, 10\) does not say what is padding at"):
        score(parent, [{"input_ids": x, "attention_mask": causal}])
    whole = score(parent, [{"input_ids": x, "attention_mask": torch.ones_like(x)}])
    torch.testing.assert_close(whole.sums, score(parent, [x]).sums)
    nothing = {"input_ids": x, "attention_mask": torch.zeros_like(x)}
    with pytest.raises(SubcloningError, match="all padding"):
        score(parent, [nothing])
    torch.testing.assert_close(score(parent, [x, nothing]).sums, whole.sums)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_autocast_has_no_say(build):
    parent, x = build(), inputs(build(), batch=8)
    child = build(heads=2, seed=9)

    def everything():
        scores = score(parent, [x], stream=True)
        plan = make_plan(parent, child, select="first")
        made = state(refit(plan, parent, copy.deepcopy(child), [x]))
        return scores.sums, made, state(match_spread(plan, parent, copy.deepcopy(child), x))

    wanted = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything()
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_inference_mode_is_left_and_entered_again(build):
    parent = build()
    with torch.inference_mode():
        x = inputs(parent)
        scores = score(parent, [x], statistic="taylor", loss=summed, stream=True)
        assert torch.is_inference_mode_enabled()
        made = build()
    torch.testing.assert_close(scores.sums, score(parent, [x], statistic="taylor", loss=summed, stream=True).sums)
    torch.testing.assert_close(score(made, [x]).sums, score(parent, [x]).sums)
    with pytest.raises(SubcloningError, match=r"made under torch.inference_mode\(\)"):
        score(made, [x], statistic="taylor", loss=summed)


def summed(model, x):
    out = model(x)
    return getattr(out, "logits", out).square().sum()


@pytest.mark.parametrize("frozen", ["all", "first"])
@pytest.mark.parametrize("build", [vit, gpt2])
def test_taylor_scores_of_a_frozen_parent(build, frozen):
    parent, other = build(), build()
    x = inputs(parent)
    parameters = list(other.parameters())
    for parameter in parameters if frozen == "all" else parameters[:20]:
        parameter.requires_grad_(False)
    before = [p.requires_grad for p in parameters]
    a, b = (score(model, [x], statistic="taylor", loss=summed) for model in (parent, other))
    torch.testing.assert_close(b.sums, a.sums)
    assert [p.requires_grad for p in parameters] == before
    assert all(p.grad is None for p in parameters)


def test_what_a_loss_does_not_see_counts_for_nothing():
    parent = gpt2()

    def loss(model, x):
        return model.transformer(x, output_hidden_states=True).hidden_states[2].sum()  # before the last block

    scores = score(parent, [inputs(parent)], statistic="taylor", loss=loss)
    assert scores.of("hidden", 1).all()
    assert not scores.of("hidden", 2).any()


@pytest.mark.parametrize("build", [vit, gpt2])
def test_refitting_and_matching_leave_no_trace(build):
    parent, child = build().train(), build(heads=2, seed=9).train()
    for module in parent.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    plan = make_plan(parent, child, select="first")
    x, random = inputs(parent), torch.get_rng_state()

    def batches():
        torch.randn(3)
        yield x

    refit(plan, parent, child, batches())
    match_spread(plan, parent, child, x)
    assert torch.equal(torch.get_rng_state(), random)
    for module in (*parent.modules(), *child.modules()):
        assert module.training
        assert not module._forward_hooks


def test_a_parent_without_values():
    with torch.device("meta"):
        parent = vit()
    with pytest.raises(SubcloningError, match="on the meta device"):
        score(parent, [torch.zeros(1, 3, 8, 8)])


def test_single_batches_are_refused_where_many_are_asked_for():
    parent, child = vit(), vit(heads=2)
    plan = make_plan(parent, child, select="first")
    with pytest.raises(SubcloningError, match="put it in a list"):
        refit(plan, parent, child, inputs(parent))


def test_nothing_is_fitted_to_what_is_not_finite():
    parent, child = vit(), vit(heads=2)
    plan = make_plan(parent, child, select="first")
    x = torch.full((2, 3, 8, 8), torch.nan)
    with pytest.raises(SubcloningError, match="NaN or infinite"):
        refit(plan, parent, child, [x])
    with pytest.raises(SubcloningError, match="not finite or do not vary"):
        match_spread(plan, parent, child, x)
