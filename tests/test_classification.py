"""Vision runs: recipe, averaged weights, parents that do not fit the data, and the paper's experiments at full size."""

import re
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from safetensors.torch import load_file
from timm.models import save_for_hf

from subcloning import Plan, SubcloningError
from subcloning.data.images.augment import BatchTransform, Recipe
from subcloning.data.images.preprocessing import preprocessing_of
from subcloning.training import run as run_module
from subcloning.training.classification import ImageClassifier, TimmParent
from subcloning.training.run import run

MODEL = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=2"]
TINY = ["logger=csv", *MODEL, "optim.lr=1e-3", "optim.weight_decay=0.1", "optim.epochs=2"]


@pytest.fixture
def parent(config, tmp_path):
    run(config("experiment=digits_parent", *TINY))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    return ["experiment=digits", *TINY, f"parent.weights.checkpoint_path='{weights}'"]


def test_averaged_weights_begin_at_the_subcloned_ones(config, parent):
    cfg = config(*parent, "init=subclone", "recipe.ema_decay=0.99999", "optim.lr=1e-2")
    run(cfg)
    curve = pd.read_csv(Path(cfg.run_dir) / "metrics.csv")
    assert curve["val_ema_loss"].iloc[0] == curve["val_loss"].iloc[0]
    assert curve["val_ema_loss"].iloc[2] == pytest.approx(curve["val_loss"].iloc[0], abs=1e-3)
    assert abs(curve["val_loss"].iloc[2] - curve["val_loss"].iloc[0]) > 0.01


def module(recipe=None, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, num_heads=4, depth=2, num_classes=12, **kwargs
    )
    transform = BatchTransform(recipe or Recipe(), [0.5] * 3, [0.5] * 3, 12, on_batch=True)
    optim = {"lr": 1.0, "weight_decay": 0.3, "betas": [0.9, 0.999], "epochs": 10, "warmup_epochs": 2, "final_lr": 0.01}
    return ImageClassifier(model, optim, transform, steps_per_epoch=5)


def test_averaged_weights_follow_their_definition():
    classifier = module(Recipe(ema_decay=0.9))
    classifier.setup("fit")
    before = classifier.model.head.weight.detach().clone()

    class Increment(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["params"][0].data += 1

    optimiser = Increment([classifier.model.head.weight], lr=1)
    for _ in range(2):
        classifier.optimizer_step(0, 0, optimiser, None)
    averaged = 0.9 * (0.9 * before + 0.1 * (before + 1)) + 0.1 * (before + 2)
    torch.testing.assert_close(classifier.ema.module.head.weight, averaged)
    assert not any(parameter.requires_grad for parameter in classifier.ema.parameters())


def test_loss_with_smoothing_is_that_of_its_formula(monkeypatch):
    images, labels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 3, 11, 3])
    losses = []
    for recipe in (Recipe(label_smoothing=0.1), Recipe(label_smoothing=0.1, mixup=1e-9)):
        classifier = module(recipe).eval()
        monkeypatch.setattr(classifier, "log", lambda *args, **kwargs: None)
        torch.manual_seed(0)
        losses.append(classifier.training_step((images, labels)))
        logs = classifier.model(classifier.transform.normalised(images)).log_softmax(1)
        wanted = -(0.9 * logs[torch.arange(4), labels] + 0.1 * logs.mean(1)).mean()
        torch.testing.assert_close(losses[-1], wanted, atol=1e-5, rtol=0)


def test_top5_from_more_than_ten_classes():
    assert set(module().metrics["val"]) == {"loss", "accuracy", "top5"}
    metric = module().metrics["val"]["top5"]
    metric.update(torch.arange(12.0).repeat(2, 1), torch.tensor([7, 6]))
    assert metric.compute() == 0.5


def test_schedule_ends_at_the_final_learning_rate():
    setup = module().configure_optimizers()
    schedule = setup["lr_scheduler"]["scheduler"]
    for _ in range(50):
        setup["optimizer"].step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.01)


def test_norms_are_in_float32_under_mixed_precision():
    model = module().model
    kinds = {}

    def listen(name):
        return lambda module, args, output: kinds.update({name: output.dtype})

    for name, part in model.named_modules():
        if isinstance(part, torch.nn.LayerNorm | torch.nn.Linear):
            part.register_forward_hook(listen(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(2, 3, 8, 8))
    assert {kind for name, kind in kinds.items() if "norm" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {torch.bfloat16}


def test_more_validations_than_epochs(config, parent):
    cfg = config(*parent, "init=subclone", "data.validations_per_epoch=4")
    run(cfg)
    curve = pd.read_csv(Path(cfg.run_dir) / "metrics.csv")
    assert curve["epoch"].tolist() == [i / 4 for i in range(9)]
    assert curve["step"].tolist() == [5 * i for i in range(9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["parent.model.num_classes=7"], r"10 classes and parent=digits_vit 7: set parent.model.num_classes"),
        (["parent.model.in_chans=3"], r"data are \(1, 8, 8\) and parent=digits_vit takes \(3, 8, 8\)"),
        (["parent.model.img_size=16"], r"data are \(1, 8, 8\) and parent=digits_vit takes \(1, 16, 16\)"),
        (["parent.model.patch_size=3"], r"images of \(8, 8\) are not a whole number of patches of \(3, 3\)"),
    ],
)
def test_model_and_data_that_do_not_fit(config, options, message):
    with pytest.raises(SubcloningError, match=message):
        run(config("experiment=digits", "init=random", *TINY, *options))


def test_shapes_that_do_not_fit_are_refused_before_anything_is_read(config, monkeypatch):
    monkeypatch.setattr(TimmParent, "trained", lambda self: pytest.fail("read the parent's weights"))
    for options, message in (
        (["destination.width=0.3"], "width=0.3 of 12 heads"),
        (["+destination.heads=16"], "heads=16: the parent has 12"),
    ):
        with pytest.raises(SubcloningError, match=message):  # there is no ImageNet either
            run(config("experiment=fig09_vit", "trainer=default", *options))


def test_pretrained_head_of_other_classes(config, monkeypatch):
    monkeypatch.setattr(TimmParent, "trained", lambda self: pytest.fail("read the parent's weights"))
    options = ["experiment=fig09_vit", "trainer=default", "parent.model.num_classes=7"]
    with pytest.raises(SubcloningError, match=r"parent=vit_base knows 1000 classes and num_classes is 7: .*new_head"):
        run(config(*options))
    monkeypatch.undo()
    built = []
    monkeypatch.setattr(timm, "create_model", lambda **options: built.append(options))
    parent = {"name": "mine", "model": {"model_name": "vit_base_patch16_224", "num_classes": 7}, "new_head": True}
    TimmParent(**parent, weights={"pretrained": True}).trained()
    assert built == [{**parent["model"], "pretrained": True}]


def test_preprocessing_of_parents(config, parent, tmp_path):
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    own = preprocessing_of({"model_name": "vit_tiny_patch16_224"}, {"checkpoint_path": str(weights)})
    assert (tuple(own["mean"]), own["crop_pct"]) == ((0.5,), 1.0)
    deit = preprocessing_of({"model_name": "deit_base_patch16_224.fb_in1k"}, {"pretrained": True})
    assert tuple(deit["mean"]) == (0.485, 0.456, 0.406)
    vit = preprocessing_of({"model_name": "vit_base_patch16_224.augreg2_in21k_ft_in1k"}, None)
    assert (tuple(vit["mean"]), vit["interpolation"]) == ((0.5, 0.5, 0.5), "bicubic")


def test_preprocessing_before_and_after_a_parent_is_trained(tmp_path):
    model, weights = {"model_name": "vit_tiny_patch16_224"}, {"checkpoint_path": str(tmp_path / "model.safetensors")}
    before = preprocessing_of(model, weights)
    save_for_hf(timm.create_model(**model, depth=1), str(tmp_path), safe_serialization=True, data_config=before)
    assert preprocessing_of(model, weights) == before  # runs of one study, wherever the parent stood


@pytest.mark.parametrize("destination", ["small", "tiny", "depth_6", "half_width"])
@pytest.mark.parametrize("name", ["vit_base", "vit_large", "vit_huge", "deit_base"])
def test_destinations_of_published_parents(config, name, destination):
    cfg = config("experiment=fig09_vit", f"parent={name}", f"destination={destination}")
    shape = {key: value for key, value in cfg.destination.items() if key != "name"}
    with torch.device("meta"):
        child = instantiate(cfg.parent, _convert_="all").child(shape)
    blocks, heads, size = {"vit_large": (24, 16, 64), "vit_huge": (32, 16, 80)}.get(name, (12, 12, 64))
    wanted = {"small": (blocks, 6), "tiny": (blocks, 3), "depth_6": (6, heads), "half_width": (blocks, heads // 2)}
    attention = child.blocks[0].attn
    assert (len(child.blocks), attention.num_heads, attention.head_dim) == (*wanted[destination], size)


# Table 1: random weights, subcloned.
PAPER_SCALE = {"fig09_vit": "vit_base", "fig11_lr_wd": "vit_base", "fig12_scaling": "vit_huge"}
PAPER_SCALE["fig14_reordering"] = "vit_base"


@pytest.mark.parametrize("experiment", PAPER_SCALE)
def test_paper_scale_settings(config, experiment):
    for init, setting in (("random", (2e-3, 0.2)), ("subclone", (1e-4, 0.005))):
        cfg = config(f"experiment={experiment}", f"init={init}")
        if experiment != "fig11_lr_wd":  # which sweeps over both
            assert (cfg.optim.lr, cfg.optim.weight_decay) == setting
        assert cfg.parent.name == PAPER_SCALE[experiment]
        assert (cfg.optim.batch_size, cfg.optim.final_lr, cfg.data.recipe.ema_decay) == (2048, 0.01, 0.9995)
        assert round(cfg.optim.warmup_epochs * 1_281_167 / 2048, -2) == 7500
    file = Path(__file__).parents[1] / "configs" / "experiment" / f"{experiment}.yaml"
    sweep = OmegaConf.load(file).hydra.sweeper.params
    for init in re.split(",", sweep.get("init", "random,subclone")):
        config(f"experiment={experiment}", f"init={init}")


class AfterFirst(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            raise RuntimeError("pulled the plug")


@pytest.mark.parametrize("experiment", PAPER_SCALE)
@pytest.mark.xdist_group("large")  # one at a time, for their memory
def test_dry_run_at_full_size(config, experiment, during, monkeypatch, tmp_path):
    """Score, plan, subclone, a step, validation, checkpoint; and from there again another step."""
    monkeypatch.setenv("SUBCLONING_IMAGES", str(Path(tmp_path).parent / "images"))  # made up once
    cfg = config(f"experiment={experiment}", "dry_run=cpu", "init=subclone", "logger=csv")
    with pytest.raises(RuntimeError, match="pulled the plug"), during(AfterFirst()):
        run(cfg)
    monkeypatch.setattr(run_module, "Start", lambda *args: pytest.fail("subcloned a second time"))
    summary = run(cfg)
    folder = Path(cfg.run_dir)
    heads, size = (8, 80) if experiment == "fig12_scaling" else (6, 64)
    assert pd.read_csv(folder / "metrics.csv")["step"].tolist() == [0, 1, 2]
    assert summary["val_ema_loss"] < 20
    assert summary["parameters"] == {6: 22_050_664, 8: 158_737_640}[heads]
    plan = Plan.load(folder / "plan.safetensors")
    assert plan.sizes["residual"] == (2 * heads * size, heads * size)
    child = load_file(folder / "model" / "model.safetensors")
    assert child["blocks.0.attn.qkv.weight"].shape == (3 * heads * size, heads * size)
