"""Controls take away what they say and nothing else, and are compared with subclone seed by seed."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_analysis import curves, losses
from test_properties import equal, pair, state
from tiny import VARIANTS, gpt2, inputs, outputs, vit

from subcloning import SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.analysis.cases import cases_figure, cases_of, cases_table
from subcloning.analysis.claims import BEYOND
from subcloning.analysis.comparisons import comparisons, controls_figure, controls_table
from subcloning.analysis.evidence import Evidence
from subcloning.analysis.results import results
from subcloning.analysis.study import STUDIES, Study
from subcloning.analysis.verdicts import NOT, PARTLY, REPRODUCED, better_in_all_cases, better_than
from subcloning.method.anatomy import Anatomy
from subcloning.method.controls import keep_only, match_spread

variants = pytest.mark.parametrize("variant", VARIANTS)


def subcloned(variant):
    parent, fresh = pair(variant)
    return subclone(parent, copy.deepcopy(fresh), select="uniform"), fresh


@variants
def test_parts_of_a_child(variant):
    child, fresh = subcloned(variant)
    given, before = state(child), state(fresh)
    in_block = {name: any(part in f".{name}" for part in (".blocks.", ".h.", ".layers.")) for name in given}
    outside, inside = (state(keep_only(what, copy.deepcopy(child), fresh)) for what in ("embeddings", "blocks"))
    for name in given:
        assert torch.equal(outside[name], (before if in_block[name] else given)[name])
        assert torch.equal(inside[name], (given if in_block[name] else before)[name])
    assert any(in_block.values())


@variants
def test_shuffled_and_spread(variant):
    child, fresh = subcloned(variant)
    given, before = state(child), state(fresh)
    shuffled, again = (state(keep_only("shuffled", copy.deepcopy(child), fresh, seed=1)) for _ in range(2))
    spread = state(keep_only("spread", copy.deepcopy(child), fresh))
    assert equal(shuffled, again)
    for name, tensor in given.items():
        if tensor.squeeze().ndim > 1:
            assert not torch.equal(shuffled[name], tensor)
            assert torch.equal(shuffled[name].flatten().sort().values, tensor.flatten().sort().values)
            torch.testing.assert_close(spread[name].std(), tensor.std())
            torch.testing.assert_close(spread[name] / spread[name].std(), before[name] / before[name].std())
        else:
            assert torch.equal(shuffled[name], tensor)
            assert torch.equal(spread[name], before[name])


@pytest.mark.parametrize("build", [vit, gpt2])
def test_measured_scale_gives_the_parents_spread(build):
    parent, child = build(depth=2), build(heads=2, depth=2, seed=9)
    x = inputs(parent, batch=16)
    plan = make_plan(parent, child, score(parent, [x]))
    apply_plan(plan, parent, child)
    before = state(child)
    match_spread(plan, parent, child, x)
    name = "blocks.1.mlp.fc2" if build is vit else "transformer.h.1.mlp.c_proj"
    seen = []
    for model in (parent, child):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, args, out: seen.append((out - m.bias).flatten(0, -2).var(0)))
        outputs(model, x)
    torch.testing.assert_close(seen[1].mean(), seen[0][plan.maps["residual"]].mean(), rtol=1e-3, atol=0)
    after, anatomy = state(child), Anatomy(child)
    changed = {key for key in after if not torch.allclose(after[key], before[key])}
    assert changed <= {key for key in anatomy.layouts if anatomy.layouts[key].fan_in}
    assert f"{name}.weight" in changed
    assert "patch_embed.proj.weight" not in changed  # its fan-in was not cut
    ratio = after[f"{name}.weight"] / before[f"{name}.weight"]
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))


def test_a_rotation_has_no_spread_to_match():
    parent, child = pair("vit")
    x = inputs(parent)
    plan = make_plan(parent, child, score(parent, [x], stream=True), select="principal")
    with pytest.raises(SubcloningError, match="scale by sqrt"):
        match_spread(plan, parent, child, x)


def test_unknown_part():
    with pytest.raises(SubcloningError, match="expected one of shuffled, spread"):
        keep_only("half", vit(), vit())


TOKENS = Study("tokens", "val_loss", math.log(1000), tuned_for="final", shown=(0,), name="gpt2_stdlib")


def test_each_control_is_compared_with_subclone_seed_by_seed():
    arms = {
        "subclone": [4.0, 4.2, 4.4],
        "uniform": [4.1, 4.3, 4.5],
        "principal": [3.0, 3.4, 3.2],
        "shuffled": [7.5] * 3,
    }
    table = comparisons(losses(arms), TOKENS).set_index("init")
    assert table.index.tolist() == ["uniform", "shuffled", "principal"]  # by question
    better = {init: row["better"] for init, row in table.iterrows()}
    assert [better["uniform"].low, better["uniform"].value, better["uniform"].high] == pytest.approx([-0.1] * 3)
    assert better["principal"].value == pytest.approx(1.0)
    ratios = [(8 - end) / (8 - other) for end, other in zip(arms["principal"], arms["subclone"], strict=True)]
    assert table.loc["principal", "sooner"].value == pytest.approx(np.prod(ratios) ** (1 / 3))
    assert table.loc["shuffled", "time"] == "never"
    text = controls_table(losses(arms), TOKENS).set_index("instead")
    assert text[""].tolist() == ["worse", "worse", "better"]
    assert text.loc["values, not wiring", "to perplexity 1000"] == "never"
    assert text.loc["values, not wiring", "times as fast"].startswith("< 0.")
    assert text.loc["evenly spaced", "nats better"] == "-0.100 [-0.100, -0.100]"
    assert text.loc["principal", "at the end"] == f"{np.exp(3.2):.1f}"
    open_ = controls_table(losses({"subclone": [4.0, 4.2], "uniform": [4.2, 4.0]}), TOKENS)
    assert open_[""].tolist() == ["open"]
    accuracy = controls_table(curves({"subclone": [10, 10], "random": [5, 5]}), STUDIES["digits"])
    assert accuracy["times as fast"].tolist() == ["2 [2, 2]"]
    assert accuracy["points better"].tolist() == ["+0.0 [+0.0, +0.0]"]
    with pytest.raises(SubcloningError, match=r"\['first'\], which configs/init does not have"):
        comparisons(losses({"subclone": [4.0], "first": [5.0]}), TOKENS)


def test_figure_of_controls_has_a_row_for_each(tmp_path):
    arms = {"subclone": [4.0, 4.2, 4.4], "uniform": [4.1, 4.3, 4.5], "shuffled": [7.5] * 3}
    left, right = controls_figure(losses(arms), TOKENS).axes
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "kept: values, not wiring",
        "units: evenly spaced",
    ]
    sooner, better = (ax.containers[0].lines[0].get_ydata().tolist() for ax in (left, right))
    assert (sooner, better) == ([1], [0, 1])  # what never gets there has no time


def test_cases_compare_within_each_case(tmp_path):
    cases = {
        "quarter_width": {"subclone": [4.0, 4.2], "random": [6.0, 6.2], "principal": [3.0, 3.2]},
        "half_width": {"subclone": [3.0, 3.2], "random": [6.0, 6.4], "principal": [3.1, 3.3]},
        "half_width_half_depth": {"subclone": [5.0] * 2, "lose_least_blocks": [4.0] * 2},
    }
    runs = pd.concat([losses(arms).assign(case=case) for case, arms in cases.items()])
    table = cases_table(runs, TOKENS)
    assert table["case"].tolist() == ["1/2 width"] * 3 + ["1/4 width"] * 3 + ["1/2 width and depth"] * 2
    first = table[table["case"] == "1/4 width"].set_index("init")
    assert first.index.tolist() == ["`subclone`", "`random`", "`principal`"]
    assert first[""].tolist() == ["", "worse", "better"]
    assert first.loc["`principal`", "nats better"] == "+1.000 [+1.000, +1.000]"
    # It falls from 8 to 3.0 and 3.2, and is at 4.1 after 3.9 / 5 and 3.9 / 4.8 of the budget.
    assert first.loc["`principal`", "subclone's end after"] == f"{(3.9 / 5 * 3.9 / 4.8) ** 0.5:.0%}"
    assert table.set_index("init").loc["`lose_least_blocks`", "nats better"] == "+1.000 [+1.000, +1.000]"
    left, right = cases_figure(runs, TOKENS).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["1/2 width and depth", "1/4 width", "1/2 width"]
    gain, more = (dict(zip(*ax.containers[0].lines[0].get_data()[::-1], strict=True)) for ax in (left, right))
    assert gain == pytest.approx({2: 3.1, 1: 2.0})
    assert more == pytest.approx({2: -0.1, 1: 1.0})


def test_verdict_over_all_cases():
    def verdict(*gains):
        cases = zip(cases_of(TOKENS), gains, strict=False)
        runs = [losses({"subclone": [5.0] * 3, "principal": [5 - g] * 3}).assign(case=case) for case, g in cases]
        return better_in_all_cases(Evidence(TOKENS, None, cases=pd.concat(runs)))

    assert verdict(0.1, 0.2, 0.3).verdict == REPRODUCED
    assert verdict(0.1, 0.2, 0.0).verdict == PARTLY
    assert verdict(0.1, 0.2, -0.1).verdict == verdict(0.1, 0.0).verdict == NOT
    assert verdict(0.1, -0.2, 0.0).ours == "better in 1 and worse in 1 of 3, from -0.2 to +0.1 nats"
    assert better_in_all_cases(Evidence(TOKENS, None)) is None


def test_verdicts_on_controls():
    arms = {"subclone": [4.0] * 3, "shuffled": [5.0] * 3, "principal": [3.0] * 3}
    e = Evidence(TOKENS, losses({"random": [6.0] * 3}), controls=losses(arms))
    assert better_than("shuffled")(e).verdict == REPRODUCED
    assert better_than("subclone", "principal")(e).verdict == REPRODUCED
    assert better_than("principal")(e).verdict == NOT
    assert better_than("uniform")(e) is None
    at_once = losses(arms).assign(val_loss=lambda runs: runs["val_loss"].mask(runs["init"] == "principal", 3.0))
    found = better_than("subclone", "principal")(Evidence(TOKENS, at_once, controls=at_once))
    assert found.ours.startswith("at perplexity 1000 before any training; at the end 20.1 against 54.6")
    assert found.verdict == REPRODUCED
    text = results([e], BEYOND)
    assert "3 | yes |" in text
    assert REPRODUCED not in text
    assert text.count("\n## ") == len(BEYOND)
