"""Re-fitted layers are the least-squares fit of their parents' outputs, on what they still have of the inputs."""

import pytest
import torch
from test_properties import equal, state
from tiny import VARIANTS, gpt2, inputs, vit

from subcloning import SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.method.refit import refit


@pytest.mark.parametrize("select", ["importance", "principal"])
@pytest.mark.parametrize("build", [vit, gpt2])
def test_refit_is_least_squares(build, select):
    parent, child = build(depth=2), build(heads=2, depth=2, seed=9)
    batches = [inputs(parent, batch=80, seed=seed) for seed in (1, 2)]
    scores = score(parent, batches, stream=True)
    plan = make_plan(parent, child, scores, select=select)
    before, weights = state(parent), state(apply_plan(plan, parent, child))
    blocks, layers = {
        vit: ("blocks", {"attn.proj": "head", "mlp.fc2": "hidden"}),
        gpt2: ("transformer.h", {"attn.c_proj": "head", "mlp.c_proj": "hidden"}),
    }[build]
    names = {f"{blocks}.{block}.{layer}": f"{axis}.{block}" for block in range(2) for layer, axis in layers.items()}
    seen = {name: [] for name in names}
    for name in names:

        def hook(module, args, out, name=name):
            seen[name].append((args[0].flatten(0, 1), out.flatten(0, 1)))

        parent.get_submodule(name).register_forward_hook(hook)
    refit(plan, parent, child, iter(batches), ridge=1e-8)
    assert equal(state(parent), before)
    for name, key in names.items():
        z, y = (torch.cat(parts).double() for parts in zip(*seen[name], strict=True))
        kept = plan.maps["residual"]
        wanted = y[:, kept] if select == "importance" else y @ kept.double().T
        z = z.unflatten(-1, (-1, 6))[:, plan.maps[key]].flatten(1) if "head" in key else z[:, plan.maps[key]]
        fit = torch.linalg.lstsq(torch.cat([z, torch.ones(len(z), 1)], 1), wanted).solution
        layer = child.get_submodule(name)
        weight = layer.weight if build is gpt2 else layer.weight.T
        torch.testing.assert_close(weight.detach().double(), fit[:-1], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(layer.bias.detach().double(), fit[-1], atol=1e-3, rtol=1e-3)
    changed = {name for name, tensor in state(child).items() if not torch.equal(tensor, weights[name])}
    assert changed == {f"{name}.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize("build", [vit, gpt2])
def test_nothing_is_refitted_where_nothing_was_cut(build):
    parent, child = build(depth=2), build(depth=1, seed=9)
    plan = make_plan(parent, child, select="first")
    weights = state(apply_plan(plan, parent, child))
    refit(plan, parent, child, [inputs(parent)])
    assert equal(state(child), weights)


@pytest.mark.parametrize("build", [vit, gpt2])
def test_in_one_call(build):
    parent, one, other = build(depth=2), build(heads=2, seed=9, depth=2), build(heads=2, seed=9, depth=2)
    batches = [inputs(parent, batch=20)]
    subclone(parent, one, iter(batches), select="principal", refit=True)
    plan = make_plan(parent, other, score(parent, batches, stream=True), select="principal")
    refit(plan, parent, apply_plan(plan, parent, other), batches)
    assert equal(state(one), state(other))
    with pytest.raises(SubcloningError, match="refit=True needs batches"):
        subclone(parent, one, select="first", refit=True)
    with pytest.raises(SubcloningError, match="batches is empty"):
        refit(plan, parent, other, [])


def test_layers_whose_inputs_are_silent():
    parent, child = gpt2(depth=1), gpt2(heads=2, depth=1, seed=9)
    for part in (parent.transformer.h[0].mlp.c_fc.weight, parent.transformer.h[0].mlp.c_fc.bias):
        torch.nn.init.zeros_(part)
    subclone(parent, child, [inputs(parent)], select="first", refit=True)
    assert all(tensor.isfinite().all() for tensor in state(child).values())


@pytest.mark.parametrize("select", ["importance", "principal"])
@pytest.mark.parametrize("variant", ["vit_layer_scale", "gpt2"])
def test_what_is_set_does_not_depend_on_the_child(variant, select):
    build, options = VARIANTS[variant]
    parent, child = build(**options), build(heads=2, seed=9, **options)
    batches = [inputs(parent, batch=20)]
    plan = make_plan(parent, child, score(parent, batches, stream=True), select=select)
    once = state(refit(plan, parent, apply_plan(plan, parent, child), batches))
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            if ("proj" in name and "patch" not in name) or "fc2" in name:
                parameter.add_(1)
    for _ in range(2):
        torch.testing.assert_close(state(refit(plan, parent, child, batches)), once)


def test_what_overflows_the_child_is_refused():
    parent, child = vit(), vit(heads=2).half()
    torch.nn.init.constant_(parent.blocks[1].mlp.fc2.bias, 1e5)
    plan = make_plan(parent, child, select="first")
    with pytest.raises(SubcloningError, match=r"blocks.1.mlp.fc2.weight or its bias overflows"):
        refit(plan, parent, child, [inputs(parent)])
