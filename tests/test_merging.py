"""Scores are sums and counts: those of parts are those of the whole, in a file as in memory, whatever the statistic."""

import json
from dataclasses import replace

import pytest
import torch
from residual_mlp import ResidualMLP, residual_mlp
from safetensors.torch import save_file
from tiny import VARIANTS, gpt2, inputs, outputs, randomise, vit

from subcloning import Scores, SubcloningError, make_plan, score
from subcloning.method.anatomy import Anatomy
from subcloning.method.scores import STATISTICS


def summed(model, x):
    out = model(x)
    return getattr(out, "logits", out).square().sum()


def options(statistic):
    return {"statistic": statistic, "loss": summed if statistic == "taylor" else None}


def assert_same(found, wanted, rtol=1e-6):
    assert found.counts == wanted.counts
    for place in wanted.places:
        torch.testing.assert_close(found.of(*place), wanted.of(*place), rtol=rtol, atol=1e-7)
    torch.testing.assert_close(found.influence, wanted.influence, rtol=rtol, atol=1e-7)
    torch.testing.assert_close(found.stream, wanted.stream, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("build", [vit, gpt2])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_parts_make_up_the_whole(build, statistic):
    parent = build()
    long, short = inputs(parent, batch=6), inputs(parent, batch=5, seed=2)
    short = short[:, :3] if build is gpt2 else short  # sequences of another length
    batches = [long, short * 5 if build is vit else short]
    whole = score(parent, batches, stream=True, **options(statistic))
    parts = [score(parent, [batch], stream=True, **options(statistic)) for batch in batches]
    merged = Scores.merge(iter(parts))
    assert merged.statistic == statistic
    assert_same(merged, whole)
    plans = [make_plan(parent, build(heads=2), scores, blocks="middle") for scores in (merged, whole)]
    assert all(torch.equal(plans[0].maps[key], plans[1].maps[key]) for key in plans[1].maps)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_file_is_as_good_as_what_was_saved(statistic, tmp_path):
    parent = vit()
    x = inputs(parent)
    points = {"hidden": "activation"}
    scores = score(parent, [x], points=points, stream=True, **options(statistic)).normalised()
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors")
    assert (again.statistic, again.points, again.parent) == (statistic, points, scores.parent)
    assert_same(again, scores, rtol=0)
    assert_same(Scores.merge([again, scores]), Scores.merge([scores, scores]))


def test_scores_of_other_things_do_not_merge():
    parent = gpt2()
    x = inputs(parent)
    plain = score(parent, [x])
    for message, other in {
        "of one statistic only.*'magnitude', 'rms'": score(parent, [x], statistic="rms"),
        "of one points only": score(parent, [x], points={"hidden": "activation"}),
        "of one equal_votes only": plain.normalised(),
        "of the same things only": score(parent, [x], stream=True),
        "of one parent only": score(gpt2(seed=1), [x]),
    }.items():
        with pytest.raises(SubcloningError, match=message):
            Scores.merge([plain, other])
    with pytest.raises(SubcloningError, match="no scores to merge"):
        Scores.merge([])


def test_files_of_means_or_with_something_lost_are_refused(tmp_path):
    file = tmp_path / "scores.safetensors"
    save_file({"hidden.0": torch.ones(3)}, file, {"scores": json.dumps({"positions": 5, "parent": "x"})})
    with pytest.raises(SubcloningError, match=r"of another version|older than this version"):
        Scores.load(file)
    scores = score(vit(), [inputs(vit())])
    replace(scores, sums={key: value for key, value in scores.sums.items() if key != "head.1"}).save(file)
    with pytest.raises(SubcloningError, match="not whole"):
        Scores.load(file)


def test_scores_that_are_not_there_are_named():
    scores = score(vit(), [inputs(vit())])
    assert scores.stream is None
    for axis, block in (("hidden", 3), ("experts", None), ("influence", 0), ("stream", None)):
        with pytest.raises(SubcloningError, match=f"no scores of '{axis}'.*residual, head, hidden in 3 blocks"):
            scores.of(axis, block)


def test_each_axis_is_averaged_over_the_positions_that_it_saw():
    """Places that see more or fewer positions than the first one count what they see."""

    class Half(ResidualMLP):
        def forward(self, x):
            x = self.layers[0](self.stem(x))
            return self.head(self.norm(self.layers[1](x[:, :2])))

    with residual_mlp():
        parent = randomise(Half(16, 24, 2))
        x = torch.randn(4, 5, 7)
        scores = score(parent, [x])
        with torch.no_grad():
            stream = parent.layers[0](parent.stem(x))
            last = parent.layers[1](stream[:, :2])
        torch.testing.assert_close(scores.of("residual", 0), stream.abs().mean((0, 1)))
        torch.testing.assert_close(scores.of("residual", 1), last.abs().mean((0, 1)))


def test_variance_of_what_is_far_from_zero():
    parent = vit()
    with torch.no_grad():
        parent.blocks[0].mlp.fc1.bias += 1000
    x, seen = inputs(parent, batch=8), []
    parent.blocks[0].mlp.fc1.register_forward_hook(lambda m, args, out: seen.append(out.detach().double()))
    scores = score(parent, x.split(3), statistic="variance")
    wanted = torch.cat(seen).flatten(0, 1).var(0, unbiased=False).float()
    torch.testing.assert_close(scores.of("hidden", 0), wanted, rtol=1e-5, atol=0)


def test_many_batches_cost_no_digits():
    parent = vit(depth=1)
    x = inputs(parent)
    once, often = score(parent, [x]), score(parent, (x for _ in range(300)))
    torch.testing.assert_close(often.sums["residual.0"], 300 * once.sums["residual.0"], rtol=1e-13, atol=0)


def test_a_silent_block_has_no_vote():
    parent = vit()
    for parameter in parent.blocks[1].mlp.fc1.parameters():
        torch.nn.init.zeros_(parameter)
    scores = score(parent, [inputs(parent)]).normalised()
    assert not scores.of("hidden", 1).any()
    assert scores.of("hidden").isfinite().all()
    torch.testing.assert_close(scores.of("hidden").sum(), torch.tensor(2.0))


@pytest.mark.parametrize("variant", ["vit", "vit_avg", "gpt2"])
def test_each_norm_and_each_sample_has_one_vote_on_the_stream(variant):
    """Also the norm after pooling, which sees one position of a sample, and sequences that are shorter than others."""
    build, options = VARIANTS[variant]
    parent, seen = build(**options), []
    norms = Anatomy(parent).norms
    for norm in norms:
        module = parent.get_submodule(norm)
        module.register_forward_hook(lambda m, args, out: seen.append((out.detach() - m.bias) / m.weight))
    x = inputs(parent, batch=3)
    batches = [x[:1], x[1:, :4]] if build is gpt2 else [x[:1], x[1:]]
    found = score(parent, batches, stream=True).stream
    seen.clear()  # what scoring asks of norms themselves
    for batch in batches:
        outputs(parent, batch)
    votes = []
    for y in seen:
        for sample in y:
            rows = sample.reshape(-1, 24)
            votes.append(rows.T @ rows / len(rows))
    assert len(votes) == 3 * len(norms)
    torch.testing.assert_close(found, torch.stack(votes).mean(0), atol=1e-4, rtol=1e-3)
