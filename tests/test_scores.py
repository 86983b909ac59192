"""Scores are the mean |activation| that the paper defines, whatever the batching, and scoring leaves no trace."""

import copy

import pytest
import torch
import torch.multiprocessing as mp
from tiny import VARIANTS, gpt2, inputs, outputs, vit

from subcloning import Scores, SubcloningError, make_plan, permute, score, score_weights, subclone
from subcloning.method.anatomy import same_parent


def test_scores_are_mean_absolute_activations():
    parent = vit()
    x = inputs(parent)
    scores = score(parent, [x])
    with torch.no_grad():
        # Block outputs as timm itself gives them; heads and hidden units of block 1 computed by hand.
        _, stream = parent.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
        stream = [torch.cat([prefix, patches], dim=1) for patches, prefix in stream]
        block = parent.blocks[1]
        q, k, v = block.attn.qkv(block.norm1(stream[0])).view(3, 5, 3, 4, 6).permute(2, 0, 3, 1, 4)
        context = (q @ k.transpose(-2, -1) * 6**-0.5).softmax(-1) @ v  # batch head token dim
        after_attention = stream[0] + block.attn(block.norm1(stream[0]))
        hidden = block.mlp.fc1(block.norm2(after_attention))
    torch.testing.assert_close(scores.of("residual"), sum(s.abs().mean((0, 1)) for s in stream))
    torch.testing.assert_close(scores.of("head", 1), context.abs().mean((0, 2, 3)))
    torch.testing.assert_close(scores.of("hidden", 1), hidden.abs().mean((0, 1)))
    assert scores.positions == 3 * 5


def test_gpt2_stream_is_that_of_transformers():
    parent = gpt2()
    x = inputs(parent)
    hidden_states = parent(x, output_hidden_states=True).hidden_states
    for block in range(2):  # the last one is given after the final norm
        expected = hidden_states[block + 1].abs().mean((0, 1))
        torch.testing.assert_close(score(parent, [{"input_ids": x}]).of("residual", block), expected)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_batching_and_merging_do_not_matter(build, tmp_path):
    parent = build()
    x = inputs(parent, batch=7)
    whole = score(parent, [x])
    halves = [score(parent, x[:2].split(1)), score(parent, [x[2:]])]
    for other in (score(parent, x.split(3)), Scores.merge(halves)):
        assert other.positions == whole.positions
        for place in whole.places:
            torch.testing.assert_close(other.of(*place), whole.of(*place), rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scoring_leaves_no_trace(variant):
    build, options = VARIANTS[variant]
    parent = build(**options).train()
    next(parent.children()).eval()  # a mixture of modes must survive too
    for module in parent.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    modes = [module.training for module in parent.modules()]
    weights = copy.deepcopy(parent.state_dict())
    random = torch.get_rng_state()

    def batches():
        torch.randn(3)  # a loader that draws random numbers
        yield inputs(parent)
        assert not torch.is_grad_enabled()

    first, second = score(parent, batches()), score(parent, batches())
    assert all(torch.equal(first.sums[key], second.sums[key]) for key in first.sums)  # dropout was off
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in parent.modules()] == modes
    assert all(torch.equal(weights[name], tensor) for name, tensor in parent.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parent.modules())


def test_modes_and_hooks_are_restored_after_an_error():
    parent = vit().train()
    with pytest.raises(AssertionError, match="Input height"):
        score(parent, [torch.zeros(1, 3, 5, 5)])
    assert all(module.training for module in parent.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parent.modules())


def test_labels_are_left_out():
    parent = gpt2()
    x = inputs(parent)
    given = score(parent, [{"input_ids": x, "labels": x}])
    assert all(torch.equal(given.sums[key], found) for key, found in score(parent, [x]).sums.items())


def test_bfloat16_parent_is_scored_in_float32():
    parent = vit()
    x = inputs(parent)
    exact, rounded = score(parent, [x]), score(copy.deepcopy(parent).bfloat16(), [x.bfloat16()])
    assert rounded.of("residual", 0).dtype == torch.float32
    torch.testing.assert_close(rounded.of("residual"), exact.of("residual"), rtol=0.03, atol=0.03)
    assert same_parent(rounded.parent, exact.parent)


def _score_a_share(rank, rendezvous, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    parent = vit()
    x = inputs(parent, batch=5)
    score(parent, [x[:2] if rank == 0 else x[2:]]).merge_ranks().save(folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_merging_over_ranks(tmp_path):
    mp.spawn(_score_a_share, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    parent = vit()
    whole = score(parent, [inputs(parent, batch=5)])
    for rank in range(2):
        merged = Scores.load(tmp_path / f"{rank}.safetensors")
        assert merged.positions == whole.positions
        for place in whole.places:
            torch.testing.assert_close(merged.of(*place), whole.of(*place))


def test_scores_of_two_parents_do_not_merge():
    a, b = vit(), vit(seed=1)
    with pytest.raises(SubcloningError, match="one parent"):
        Scores.merge([score(a, [inputs(a)]), score(b, [inputs(b)])])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "empty"),
        (torch.zeros(2, 3, 8, 8), "put it in a list"),
        ([(torch.zeros(2, 3, 8, 8), torch.zeros(2))], "got tuple"),
        ([torch.full((2, 3, 8, 8), torch.nan)], "NaN or infinite"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(SubcloningError, match=message):
        score(vit(), batches)


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(SubcloningError, match="holds no scores"):
        Scores.load(tmp_path / "x.safetensors")


def stream_of(parent, x):
    return torch.stack(parent(x, output_hidden_states=True).hidden_states[1:-1])


def test_statistics():
    parent = gpt2()
    x = inputs(parent, batch=5)
    with torch.no_grad():
        stream = stream_of(parent, x).flatten(1, 2)  # block position neuron
    wanted = {
        "magnitude": stream.abs().mean(1),
        "rms": stream.square().mean(1).sqrt(),
        "variance": stream.var(1, unbiased=False),
    }
    for statistic, means in wanted.items():
        scores = score(parent, x.split(2), statistic=statistic)
        found = torch.stack([scores.of("residual", block) for block in range(2)])
        torch.testing.assert_close(found, means, rtol=1e-4, atol=1e-5)


def test_taylor_is_what_a_unit_weighs_in_the_loss():
    parent = gpt2()
    x = inputs(parent)

    def loss(model, tokens):
        return model(tokens, labels=tokens).loss

    scores = score(parent, [x], statistic="taylor", loss=loss)
    kept = []
    hook = parent.transformer.h[1].register_forward_hook(lambda m, args, out: kept.append(out))
    value = loss(parent, x)
    hook.remove()
    hidden = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    (gradient,) = torch.autograd.grad(value, hidden)
    torch.testing.assert_close(scores.of("residual", 1), (hidden * gradient).abs().mean((0, 1)).detach())
    assert all(parameter.grad is None for parameter in parent.parameters())
    assert not scores.of("residual", 1).requires_grad


def test_other_points():
    parent = gpt2()
    x = inputs(parent)
    block = parent.transformer.h[1]
    seen = {}
    block.attn.c_proj.register_forward_hook(lambda m, args, out: seen.update(attention=out))
    block.mlp.c_proj.register_forward_hook(lambda m, args, out: seen.update(mlp=out, activation=args[0]))
    scores = score(parent, [x], points={"residual": "branch", "hidden": "activation"})
    branch = (seen["attention"].abs() + seen["mlp"].abs()).mean((0, 1)) / 2
    torch.testing.assert_close(scores.of("residual", 1), branch.detach())
    torch.testing.assert_close(scores.of("hidden", 1), seen["activation"].abs().mean((0, 1)).detach())
    assert scores.positions == x.numel()


def test_normalised_scores_have_equal_votes():
    parent = vit()
    scores = score(parent, [inputs(parent)], stream=True)
    equal = scores.normalised()
    for block in range(3):
        torch.testing.assert_close(equal.of("residual", block).sum(), torch.tensor(1.0))
        assert torch.equal(equal.of("hidden", block).argsort(), scores.of("hidden", block).argsort())
    assert torch.equal(equal.stream, scores.stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "median"}, "expected one of magnitude, rms"),
        ({"statistic": "taylor"}, "no loss"),
        ({"loss": lambda m, x: m(x).sum()}, "a loss with taylor only"),
        ({"points": {"hidden": "before"}}, "hidden='before'.*activation"),
        ({"points": {"head": "branch"}}, "head='branch'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SubcloningError, match=message):
        score(vit(), [inputs(vit())], **options)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_influence_is_how_much_a_block_turns_the_stream(build):
    model = build(depth=3)
    blocks = model.blocks if build is vit else model.transformer.h
    silent = (lambda b: (b.attn.proj, b.mlp.fc2)) if build is vit else (lambda b: (b.attn.c_proj, b.mlp.c_proj))
    seen = []
    hooks = [blocks[0].register_forward_hook(lambda module, args, out: seen.append((args[0], out)))]
    for layer in silent(blocks[1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    batches = [inputs(model, seed=1), inputs(model, batch=2, seed=2)]
    scores = score(model, batches)
    hooks[0].remove()
    turned = []
    for x, y in seen:
        y = y[0] if isinstance(y, tuple) else y
        turned.append(1 - (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)))
    assert scores.influence[0].item() == pytest.approx(torch.cat(turned).mean().item(), abs=1e-5)
    assert scores.influence[1].item() == pytest.approx(0, abs=1e-6)
    assert scores.normalised().influence[0] == scores.influence[0]
    child = build(depth=2, heads=2)
    assert make_plan(model, child, scores, blocks="least").blocks == [0, 2]
    with pytest.raises(SubcloningError, match="needs scores with the blocks' influence"):
        make_plan(model, child, select="first", blocks="least")


def test_weights_alone_can_be_scored(tmp_path):
    parent = gpt2()
    scores = score_weights(parent)
    mlp, attention = parent.transformer.h[1].mlp, parent.transformer.h[1].attn
    hidden = torch.cat([mlp.c_fc.weight, mlp.c_proj.weight.T]).norm(dim=0)
    torch.testing.assert_close(scores.of("hidden", 1), hidden.detach())
    heads = torch.cat([attention.c_attn.weight.view(24, 3, 4, 6).permute(2, 0, 1, 3).flatten(1),
                       attention.c_proj.weight.view(4, -1)], 1)  # fmt: skip
    torch.testing.assert_close(scores.of("head", 1), heads.norm(dim=1).detach())
    neurons = [attention.c_attn.weight, attention.c_proj.weight.T, mlp.c_fc.weight, mlp.c_proj.weight.T]
    torch.testing.assert_close(scores.of("residual", 1), torch.cat(neurons, 1).norm(dim=1).detach())
    scores.save(tmp_path / "scores.safetensors")
    assert torch.equal(Scores.load(tmp_path / "scores.safetensors").of("head"), scores.of("head"))
    assert (scores.positions, len(scores.influence)) == (0, 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_of_weights_go_with_the_units(variant):
    build, options = VARIANTS[variant]
    parent = build(**options)
    scores, activations = score_weights(parent), score(parent, [inputs(parent)])
    permuted = score_weights(permute(parent, activations))
    for axis, block in [("residual", None), ("head", 1), ("hidden", 1)]:
        order = activations.of(axis, block).argsort(descending=True, stable=True)
        torch.testing.assert_close(permuted.of(axis, block), scores.of(axis, block)[order])
    child = subclone(parent, build(**options | {"heads": 2}), scores=scores)
    assert torch.isfinite(outputs(child, inputs(child))).all()


@pytest.mark.parametrize(
    ("options", "message"), [({"select": "principal"}, "stream=True"), ({"blocks": "least"}, "influence")]
)
def test_what_scores_of_weights_do_not_say(options, message):
    parent = vit()
    with pytest.raises(SubcloningError, match=message):
        make_plan(parent, vit(heads=2, depth=2), score_weights(parent), **options)
