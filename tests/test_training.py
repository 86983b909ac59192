"""A run, from config to summary: folder, resume, refusal, and what the optimiser decays."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from subcloning import Plan, SubcloningError
from subcloning.collect import collect, from_folders
from subcloning.data.images.augment import BatchTransform, Recipe
from subcloning.method.families.vit import resized
from subcloning.training import run as run_module
from subcloning.training.classification import ImageClassifier
from subcloning.training.run import run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TINY = ["logger=csv", "parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=2"]


def names(group):
    return sorted(file.stem for file in (CONFIGS / group).glob("[!_]*.yaml"))


@pytest.fixture
def parent(config, tmp_path):
    """Options of an experiment whose tiny parent has been trained for one epoch."""
    run(config("experiment=digits_parent", *TINY, "optim.epochs=1"))
    (weights,) = (tmp_path / "runs" / "digits_parent").glob("*/*/model/model.safetensors")
    return ["experiment=digits", *TINY, f"parent.weights.checkpoint_path='{weights}'"]


@pytest.mark.parametrize(
    ("experiment", "init"),
    [("digits", init) for init in names("init")] + [(experiment, "subclone") for experiment in names("experiment")],
)
def test_every_experiment_and_every_init_composes(config, experiment, init):
    cfg = config(f"experiment={experiment}", f"init={init}", "optim.lr=1e-3", "optim.weight_decay=0.1")
    OmegaConf.resolve(cfg)
    assert cfg.init.name == init
    assert experiment in cfg.run_dir
    assert not re.search(r"[=\s]", cfg.run)


def commands(file):
    """Overrides of each command that trains or submits in a Markdown or YAML file, the first value of each sweep."""
    found = re.findall(r"subcloning\.(?:train|submit) ([^#`\n|]*)", file.read_text().replace("\\\n", " "))
    lines = [
        [word for word in shlex.split(line) if word != "-m" and not re.search("launcher|cluster|dry=", word)]
        for line in found
    ]
    return [[re.sub(",.*", "", word) for word in line] for line in lines]


DOCUMENTS = [
    "README.md",
    "slurm/README.md",
    *sorted(
        str(file.relative_to(ROOT))
        for file in ROOT.glob("experiments/*/README.md")
        if "subcloning.train" in file.read_text()
    ),
    *(f"configs/experiment/{name}.yaml" for name in names("experiment")),
]


def test_an_unknown_scale_is_refused(config, parent):
    with pytest.raises(SubcloningError, match=r"init.scale='twice': expected true, false or measured"):
        run(config(*parent, "init=subclone", "init.scale=twice", "seed=0"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_compose(config, document):
    found = commands(ROOT / document)
    assert found or "run.sh" in (ROOT / document).read_text()  # of which tests/test_studies.py has a test
    for overrides in found:
        OmegaConf.resolve(config(*overrides))


@pytest.mark.parametrize("destination", ["full", "half_width", "half_width_two_thirds_depth"])
def test_destinations(config, destination):
    cfg = config("experiment=digits", f"destination={destination}")
    child = instantiate(cfg.parent).child({key: value for key, value in cfg.destination.items() if key != "name"})
    assert (child.embed_dim, len(child.blocks)) == (96 * cfg.destination.width, round(6 * cfg.destination.depth))
    assert child.blocks[0].attn.head_dim == 16


@pytest.mark.parametrize("init", names("init"))
def test_run_leaves_its_record(config, parent, init):
    cfg = config(*parent, f"init={init}", "optim.epochs=2", "optim.lr=1e-3", "optim.weight_decay=0.1", "seed=3")
    summary = run(cfg)
    folder = Path(cfg.run_dir)
    found = {path.name for path in folder.iterdir()}
    expected = {".lock", "config.yaml", "provenance.json", "metrics.csv", "last.ckpt", "model", "summary.json"}
    assert found == expected | ({"plan.safetensors"} if init != "random" else set())
    assert json.loads((folder / "summary.json").read_text()) == summary
    curve = pd.read_csv(folder / "metrics.csv")
    assert curve["epoch"].tolist() == [0, 1, 2]
    assert curve["step"].tolist() == [0, 21, 42]
    assert curve[["val_accuracy", "val_loss"]].notna().all(axis=None)
    assert curve["train_loss"].notna().tolist() == [False, True, True]
    if init != "random":
        assert Plan.load(folder / "plan.safetensors").sizes["residual"] == (16, 8)
    # The exported model is the trained one, for plain timm, and says how to prepare its input.
    model = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    images, labels = instantiate(cfg.data).validation[torch.arange(450), None]
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(summary["val_accuracy"], abs=1e-6)
    assert tuple(model.pretrained_cfg["mean"]) == (0.5,)


class Interruption(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("pulled the plug")


def test_resumed_run_equals_undisturbed_run_and_does_not_subclone_again(config, parent, during, monkeypatch):
    def cfg(name):
        return config(*parent, "init=subclone", "optim.epochs=4", f"name={name}")

    undisturbed = run(cfg("undisturbed"))
    with pytest.raises(RuntimeError, match="pulled the plug"), during(Interruption()):
        run(cfg("disturbed"))
    folder = Path(cfg("disturbed").run_dir)
    assert not (folder / "summary.json").exists()
    monkeypatch.setattr(run_module, "Start", lambda *args: pytest.fail("subcloned a second time"))
    torch.manual_seed(1234)  # whatever the state of the process
    resumed = run(cfg("disturbed"))
    assert {**resumed, "seconds": 0} == {**undisturbed, "seconds": 0}
    other = Path(cfg("undisturbed").run_dir)
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    weights = [timm.models.load_state_dict(path / "model" / "model.safetensors") for path in (folder, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_finished_run_is_not_repeated(config, parent, capsys, monkeypatch):
    cfg = config(*parent, "init=subclone", "optim.epochs=1")
    first = run(cfg)
    monkeypatch.setattr(run_module, "prepare", lambda *args: pytest.fail("trained again"))
    assert run(cfg) == first
    assert "done before" in capsys.readouterr().out


def test_folder_of_another_run_is_refused(config, parent):
    cfg = config(*parent, "init=subclone", "optim.epochs=1")
    run(cfg)
    before = (Path(cfg.run_dir) / "config.yaml").read_text()
    with pytest.raises(SubcloningError, match=r"holds another run: optim.epochs = 1 \(wanted 2\)"):
        run(config(*parent, "init=subclone", "optim.epochs=2"))
    assert (Path(cfg.run_dir) / "config.yaml").read_text() == before
    run(config(*parent, "init=subclone", "optim.epochs=1", "trainer=cpu"))  # done, wherever it runs


def test_missing_parent_is_named_and_then_mended(config, parent):
    missing = [*parent[:-1], "init=subclone", "optim.epochs=1", "parent.weights.checkpoint_path=/nowhere"]
    with pytest.raises(SubcloningError, match="/nowhere do not exist: train the parent first"):
        run(config(*missing))
    assert run(config(*parent, "init=subclone", "optim.epochs=1"))["epoch"] == 1


def test_mixed_precision(config, parent):
    assert run(config(*parent, "init=subclone", "optim.epochs=1", "trainer.precision=bf16-mixed"))["val_loss"] < 10


def test_width_that_splits_a_head_is_refused(config):
    with pytest.raises(SubcloningError, match=r"width=0.4 of 6 heads is 2.4: .*whole number"):
        run(config("experiment=digits", "destination.width=0.4"))
    vit = timm.create_model("vit_tiny_patch16_224")
    # timm multiplies and rounds down, so half a unit more than four times the width.
    assert resized(vit, heads=1, blocks=2) == {"embed_dim": 64, "num_heads": 1, "depth": 2, "mlp_ratio": 256.5 / 64}
    assert resized(vit, width=2 / 3, depth=0.5) == {
        "embed_dim": 128, "num_heads": 2, "depth": 6, "mlp_ratio": 512.5 / 128,
    }  # fmt: skip


def test_seed_decides_the_data_order_and_the_random_weights(config, parent):
    def curve(name, **options):
        cfg = config(*parent, "optim.epochs=1", f"name={name}", *(f"{k}={v}" for k, v in options.items()))
        run(cfg)
        return (Path(cfg.run_dir) / "metrics.csv").read_text()

    assert curve("a", init="random", seed=1) == curve("b", init="random", seed=1)
    assert curve("c", init="random", seed=2) != curve("a", init="random", seed=1)
    assert curve("d", init="subclone", seed=2) != curve("e", init="subclone", seed=1)


def test_wandb_gets_the_curve_offline_under_the_runs_own_id(config, parent):
    cfg = config(*parent, "init=subclone", "optim.epochs=1", "logger=wandb_offline")
    run(cfg)
    (log,) = Path(cfg.run_dir).glob("wandb/offline-run-*/*.wandb")
    assert log.stem == "run-" + (Path(cfg.run_dir) / "wandb_id").read_text().strip()
    content = log.read_bytes()
    assert all(key in content for key in (b"val_accuracy", b"val_loss", b"train_loss", b"embed_dim"))


def test_decay_only_where_it_belongs_and_cosine_with_warmup():
    model = timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=16, num_heads=4, depth=1, img_size=32)
    optim = {"lr": 1.0, "weight_decay": 0.3, "betas": [0.9, 0.999], "epochs": 10, "warmup_epochs": 2}
    transform = BatchTransform(Recipe(), [0.5], [0.5], 10, on_batch=True)
    setup = ImageClassifier(model, optim, transform, steps_per_epoch=5).configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in setup["optimizer"].param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        spared = parameter.ndim == 1 or name in ("pos_embed", "cls_token", "dist_token")
        assert decay[id(parameter)] == (0 if spared else 0.3), name
    rates = []
    for _ in range(50):
        rates.append(setup["lr_scheduler"]["scheduler"].get_last_lr()[0])
        setup["optimizer"].step()
        setup["lr_scheduler"]["scheduler"].step()
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert rates[30] == pytest.approx(0.5)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert setup["lr_scheduler"]["interval"] == "step"


def test_batch_larger_than_the_data(config):
    with pytest.raises(InstantiationException, match="batch_size=2000 is more than the 1347 training images"):
        instantiate(config("experiment=digits", "optim.batch_size=2000").data)


def test_collect(config, parent, tmp_path):
    for init in ("random", "subclone"):
        run(config(*parent, f"init={init}", "optim.epochs=1"))
    table = collect(from_folders(tmp_path / "runs" / "digits"), tmp_path / "out")
    assert table.shape == (4, 9)
    record = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert record["common"]["parent"]["weights"]["checkpoint_path"].startswith("runs/digits_parent/digits_vit-full")
    assert str(tmp_path) not in json.dumps(record)
    assert record["common"]["provenance"]["data"]["train_images"] == 1347
    assert record["arms"]["random"]["init"]["select"] is None
    before = (tmp_path / "out" / "runs.csv").read_bytes()
    run(config(*parent, "init=random", "optim.epochs=1", "destination=full"))
    with pytest.raises(SubcloningError, match=r"not of one study: destination\.name = "):
        collect(from_folders(tmp_path / "runs" / "digits"), tmp_path / "out")
    assert (tmp_path / "out" / "runs.csv").read_bytes() == before
    with pytest.raises(SubcloningError, match="no finished run: "):
        collect(from_folders(tmp_path / "nothing"), tmp_path / "out")
