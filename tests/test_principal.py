"""Rotating the residual stream changes nothing; cutting a rotated one keeps what the principal directions hold."""

import copy

import pytest
import torch
from residual_mlp import ResidualMLP, residual_mlp
from tiny import VARIANTS, inputs, outputs, randomise, vit
from torch import nn

from subcloning import Plan, SubcloningError, apply_plan, make_plan, score, subclone
from subcloning.method.anatomy import Anatomy
from subcloning.method.principal import Folded, is_centred, principal_map, rotation, turned_to

ROTATABLE = [name for name in VARIANTS if name != "vit_pre_norm"]
EXACT = [name for name in ROTATABLE if name != "gpt2"]  # whose head is tied to the embedding
variants = pytest.mark.parametrize("variant", ROTATABLE)


def pair(variant, **shape):
    build, options = VARIANTS[variant]
    return build(**options), build(**{"heads": 2, "seed": 9} | shape, **options)


def scored(parent, x=None):
    return score(parent, [inputs(parent) if x is None else x], stream=True)


def rotate(parent, scores):
    """A copy of `parent` with nothing cut, but its stream rotated."""
    plan = make_plan(parent, parent, scores)
    maps, energy = rotation(Anatomy(parent), Anatomy(parent), scores.stream, lost=0.0)
    assert energy == pytest.approx(1)
    plan.maps.update(maps)
    return apply_plan(plan, parent, copy.deepcopy(parent))


def folded(parent):
    """A copy of `parent` with the folded tensors."""
    read, copied = Folded(Anatomy(parent), Anatomy(parent).tied), Anatomy(copy.deepcopy(parent))
    with torch.no_grad():
        for name, tensor in copied.tensors.items():
            tensor.copy_(read[name])
    return copied.model


@pytest.mark.parametrize("variant", EXACT)
def test_folding_and_rotating_leave_outputs_unchanged(variant):
    parent, _ = pair(variant)
    x = inputs(parent)
    wanted = outputs(parent, x)
    if variant not in ("vit_no_qkv_bias", "gpt2_untied"):  # the bias of a norm is made up for in the child
        torch.testing.assert_close(outputs(folded(parent), x), wanted, atol=1e-5, rtol=1e-5)
    rotated = rotate(parent, scored(parent))
    torch.testing.assert_close(outputs(rotated, x), wanted, atol=2e-5, rtol=1e-4)
    name = next(name for name, p in parent.named_parameters() if p.ndim > 1)  # an embedding
    assert not torch.allclose(parent.get_parameter(name), rotated.get_parameter(name), atol=0.1)


def test_a_tied_head_keeps_any_gain_before_it():
    """Which it cannot take over; up to 2026-11 its mean stood for it."""
    for variant, within in (("llama_tied", 1e-5), ("gpt2", 0.1)):  # RMSNorm: exact; LayerNorm: nearly
        parent, _ = pair(variant)
        norm = parent.get_submodule("model.norm" if variant == "llama_tied" else "transformer.ln_f")
        with torch.no_grad():
            norm.weight.copy_(torch.randn(24, generator=torch.Generator().manual_seed(3)) * 1.5)
        x = inputs(parent)
        wanted, found = outputs(parent, x), outputs(rotate(parent, scored(parent)), x)
        assert (found - wanted).norm() < within * wanted.norm()
        even = copy.deepcopy(parent)
        with torch.no_grad():
            even.get_submodule("model.norm" if variant == "llama_tied" else "transformer.ln_f").weight.fill_(
                norm.weight.mean()
            )
        assert (outputs(even, x) - wanted).norm() > 0.5 * wanted.norm()


@pytest.mark.parametrize("keep_mean", [True, False])
@pytest.mark.parametrize("size", [2, 3, 24, 64])
def test_gain_within_what_is_kept(keep_mean, size):
    """What a gain does to the kept directions is what the child's does to its neurons."""
    generator = torch.Generator().manual_seed(size)
    gain, factor = torch.randn(64, generator=generator), torch.randn(64, 64, generator=generator)
    stream = factor @ factor.T
    rows, _ = principal_map(stream, size, keep_mean)
    turned, weights = turned_to(gain, rows, stream, keep_mean)
    torch.testing.assert_close(turned @ turned.T, torch.eye(size), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.T @ turned, rows.T @ rows, atol=1e-5, rtol=0)  # the same directions
    centre = torch.eye(size) - (1 / size if keep_mean else 0)
    wanted = centre @ (turned * gain @ turned.T) @ centre
    found = centre @ torch.diag(weights @ gain) @ centre
    assert (found - wanted).norm() <= (0.05 if keep_mean else 1e-5) * wanted.norm()
    if keep_mean:
        torch.testing.assert_close(turned.mean(0), torch.full((64,), (64 * size) ** -0.5), atol=1e-5, rtol=0)


def test_rows_stay_principal_axes_where_the_gain_hardly_matters():
    """They train better so (experiments/principal), and lose less than they are allowed to."""
    generator = torch.Generator().manual_seed(0)
    factor, noise = torch.randn(64, 64, generator=generator), torch.randn(64, generator=generator)
    stream = factor @ factor.T
    for keep_mean in (True, False):
        rows, _ = principal_map(stream, 24, keep_mean)
        centre = torch.eye(24) - (1 / 24 if keep_mean else 0)
        for uneven, same in ((0.03, True), (1.0, False)):
            gain = 1 + uneven * noise
            turned, weights = turned_to(gain, rows, stream, keep_mean)
            assert torch.allclose(turned, rows, atol=1e-5) == same
            wanted = centre @ (turned * gain @ turned.T) @ centre
            error = wanted - centre @ torch.diag(weights @ gain) @ centre
            seen = turned @ stream @ turned.T
            assert (error @ seen * error).sum() <= 0.1**2 * (wanted @ seen * wanted).sum()
            mean = wanted - gain.mean() * centre
            assert (error @ seen * error).sum() < (mean @ seen * mean).sum()


def test_a_rescaled_twin_of_a_parent_gives_the_same_child():
    """Gains and the layers that read them can be traded against each other, neuron by neuron."""
    parent, child = pair("llama")
    twin = copy.deepcopy(parent)
    scale = torch.rand(24, generator=torch.Generator().manual_seed(4)) * 3 + 0.1
    with torch.no_grad():
        for norm, readers in Anatomy(twin).norms.items():
            twin.get_parameter(f"{norm}.weight").mul_(scale)
            for reader in readers:
                twin.get_parameter(f"{reader}.weight").div_(scale)
    x = inputs(parent)
    torch.testing.assert_close(outputs(twin, x), outputs(parent, x), atol=1e-4, rtol=1e-4)
    one, other = (subclone(p, copy.deepcopy(child), [x], select="principal") for p in (parent, twin))
    torch.testing.assert_close(outputs(one, x), outputs(other, x), atol=1e-3, rtol=1e-3)


def test_a_plan_of_before_tied_heads_kept_their_gain_is_refused():
    parent, child = pair("gpt2")
    plan = make_plan(parent, child, scored(parent), select="principal")
    plan.maps["transformer.ln_f.weight:residual"] = torch.arange(12)
    with pytest.raises(SubcloningError, match=r"ln_f.weight.*of an older version.*make it again"):
        apply_plan(plan, parent, child)


def test_rms_norm_has_no_mean_to_keep():
    with residual_mlp():
        parent = randomise(ResidualMLP(16, 24, 4))
        x = torch.randn(5, 7)
        torch.testing.assert_close(rotate(parent, scored(parent, x))(x), parent(x), atol=1e-5, rtol=1e-5)
        plan = make_plan(parent, ResidualMLP(8, 24, 4), scored(parent, x), select="principal")
        rows = plan.maps["residual"]
        torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)


@variants
def test_map_is_orthonormal_and_carries_the_mean_to_the_mean(variant):
    parent, child = pair(variant)
    scores = scored(parent)
    plan = make_plan(parent, child, scores, select="principal")
    rows = plan.maps["residual"]
    assert rows.shape == plan.sizes["residual"][::-1] == (12, 24)
    torch.testing.assert_close(rows @ rows.T, torch.eye(12), atol=1e-5, rtol=0)
    if is_centred(Anatomy(parent)):
        torch.testing.assert_close(rows.mean(0), torch.full((24,), (24 * 12) ** -0.5), atol=1e-5, rtol=0)
    stream = scores.stream
    kept = (rows @ stream @ rows.T).trace() / stream.trace()
    assert kept.item() == pytest.approx(plan.energy, abs=1e-5)
    random = torch.linalg.qr(torch.randn(24, 12, generator=torch.Generator().manual_seed(0))).Q.T
    assert plan.energy > (random @ stream @ random.T).trace() / stream.trace()


def test_stream_is_what_the_norms_see():
    parent = vit()
    x = inputs(parent)
    seen = []
    norms = [m for b in parent.blocks for m in (b.norm1, b.norm2)] + [parent.norm]
    for norm in norms:  # without gain and bias, their output is what is wanted
        norm.register_forward_hook(lambda m, args, out: seen.append((out - m.bias) / m.weight))
    with torch.no_grad():
        parent(x)
    wanted = torch.stack([y.flatten(0, 1).T @ y.flatten(0, 1) / y.shape[:2].numel() for y in seen]).mean(0)
    torch.testing.assert_close(scored(parent).stream, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_stream_of_few_directions_is_kept_whole(norm):
    """What is written lies in 8 directions (and the mean): a child of 9 is exact, scaling and all."""
    with residual_mlp():
        parent, child = randomise(ResidualMLP(16, 24, 4, norm)), ResidualMLP(9, 24, 4, norm)
        directions = torch.linalg.qr(torch.cat([torch.ones(16, 1), torch.randn(16, 8)], dim=1)).Q[:, 1:]
        with torch.no_grad():
            for writer in (parent.stem, *(block.down for block in parent.layers)):
                for parameter in writer.parameters():
                    parameter.copy_(directions @ directions.T @ parameter)
            for m in (parent.norm, *(block.norm for block in parent.layers)):
                if norm is nn.LayerNorm:  # its bias has no layer bias to go to, except at the head
                    m.bias.zero_()
            if norm is nn.LayerNorm:
                parent.stem.bias += 0.7
        x = torch.randn(50, 7)
        subclone(parent, child, [x], select="principal")
        torch.testing.assert_close(child(x), parent(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["vit", "gpt2"])
def test_better_than_importance_before_training(variant):
    """On a parent whose stream has directions to keep: the child's outputs are nearer to the parent's."""
    parent, child = pair(variant, mlp_ratio=4.0)
    generator = torch.Generator().manual_seed(2)
    loadings = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q * torch.logspace(0, -2, 24)
    mix = loadings @ torch.randn(24, 24, generator=generator) * 24**-0.5
    with torch.no_grad():
        for name, parameter in parent.named_parameters():
            if name.endswith(("pos_embed", "wte.weight", "wpe.weight", "cls_token")):
                parameter.copy_(parameter @ mix.T * 3)
    x = inputs(parent, batch=64)
    scores = scored(parent, x)
    errors = {}
    for select in ("principal", "importance"):
        made = subclone(parent, copy.deepcopy(child), scores=scores, select=select)
        errors[select] = (outputs(made, x) - outputs(parent, x)).square().mean()
    assert errors["principal"] < errors["importance"]


@variants
def test_readers_and_norms_of_the_child(variant):
    """Norms of gain one; each reader by sqrt(d / d') and by the root of the kept energy."""
    parent, child = pair(variant)
    plan = make_plan(parent, child, scored(parent), select="principal")
    apply_plan(plan, parent, child)
    rows, factor = plan.maps["residual"], (2 * plan.energy) ** 0.5
    if variant.startswith("gpt2"):
        norm, reader = child.transformer.h[1].ln_2, child.transformer.h[1].mlp.c_fc.weight.T
        source, gain = parent.transformer.h[1].mlp.c_fc.weight.T, parent.transformer.h[1].ln_2.weight
    elif hasattr(child, "model"):
        norm, reader = child.model.layers[1].post_attention_layernorm, child.model.layers[1].mlp.up_proj.weight
        source, gain = parent.model.layers[1].mlp.up_proj.weight, parent.model.layers[1].post_attention_layernorm.weight
    else:
        norm, reader = child.blocks[1].norm2, child.blocks[1].mlp.fc1.weight
        source, gain = parent.blocks[1].mlp.fc1.weight, parent.blocks[1].norm2.weight
    assert torch.equal(norm.weight, torch.ones(12))
    assert not any(bias.any() for name, bias in norm.named_parameters() if name == "bias")
    kept = plan.maps["hidden.1"]
    torch.testing.assert_close(reader, (source * gain)[kept] @ rows.T * factor, atol=1e-5, rtol=1e-4)


def test_plan_is_saved_with_its_rotation(tmp_path):
    parent, child = pair("vit")
    plan = make_plan(parent, child, scored(parent), select="principal")
    plan.save(tmp_path / "plan.safetensors")
    again = Plan.load(tmp_path / "plan.safetensors")
    assert again.energy == plan.energy
    assert "principal directions" in str(again)
    a, b = (apply_plan(p, parent, copy.deepcopy(child)).state_dict() for p in (plan, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_parent_in_bfloat16_is_rounded_once():
    parent, child = pair("vit")
    parent = parent.bfloat16().float()
    plan = make_plan(parent, child, scored(parent), select="principal")
    exact = apply_plan(plan, parent, copy.deepcopy(child))
    rounded = apply_plan(plan, copy.deepcopy(parent).bfloat16(), copy.deepcopy(child))
    for a, b in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_refusals():
    parent, child = pair("vit")
    with pytest.raises(SubcloningError, match="stream=True"):
        make_plan(parent, child, score(parent, [inputs(parent)]), select="principal")
    parent, child = pair("vit_pre_norm")
    with pytest.raises(SubcloningError, match=r"cannot be rotated.*norm_pre"):
        scored(parent)
    wide = make_plan(vit(heads=6), vit(heads=2), scored(vit(heads=6)), select="principal")
    with pytest.raises(SubcloningError, match="make a plan for them"):
        apply_plan(wide, *pair("vit"))
