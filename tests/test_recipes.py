"""A recipe says how training is regularised, and nothing else; and it is never left out in silence."""

import pytest
from omegaconf import OmegaConf

from subcloning import SubcloningError
from subcloning.data.images.augment import refuse_idle_recipe
from subcloning.training.run import run

RECIPES = ["none", "plain", "cvnets", "deit"]


@pytest.mark.parametrize("experiment", ["fig09_vit", "fig12_scaling", "digits", "vit_cifar10"])
def test_batch_and_schedule_are_the_experiments(config, experiment):
    given = [f"experiment={experiment}", "optim.lr=1e-3", "optim.weight_decay=0.1"]
    wanted = OmegaConf.to_container(config(*given).optim, resolve=True)
    for recipe in RECIPES:
        cfg = config(*given, f"recipe={recipe}")
        assert OmegaConf.to_container(cfg.optim, resolve=True) == wanted
        assert cfg.data.recipe == cfg.recipe


def test_the_papers_batch_and_warm_up(config):
    optim = config("experiment=fig09_vit", "recipe=deit").optim
    assert (optim.batch_size, optim.epochs, optim.warmup_epochs, optim.final_lr) == (2048, 150, 12, 0.01)


@pytest.mark.parametrize("recipe", [*RECIPES[1:], "none recipe.dropout=0.1"])
def test_a_recipe_for_text_is_refused(config, tmp_path, recipe):
    cfg = config("experiment=gpt2_stdlib", *f"recipe={recipe}".split())
    with pytest.raises(SubcloningError, match=r"recipe: .*recipes are for images, and gpt2_stdlib trains on text"):
        run(cfg)
    assert not (tmp_path / "runs").exists()


def test_recipes_that_count_are_not(config):
    for overrides in (["experiment=gpt2_stdlib"], ["experiment=fig09_vit"], ["experiment=digits", "recipe.shift=1"]):
        refuse_idle_recipe(config(*overrides))
