"""What is measured of parents; verdicts; and that the committed figures, tables and results are what the code makes."""

import copy
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from test_analysis import ROOT, curves, losses
from tiny import gpt2, inputs, outputs, vit
from torch import nn

from subcloning import SubcloningError
from subcloning.analysis.__main__ import everything, measure
from subcloning.analysis.arms import BIGGER
from subcloning.analysis.claims import CLAIMS
from subcloning.analysis.evidence import Evidence, evidence
from subcloning.analysis.figures import FIGURES
from subcloning.analysis.measure import CHANGES
from subcloning.analysis.parents import correlations
from subcloning.analysis.results import not_yet_run, results
from subcloning.analysis.runs import read_units
from subcloning.analysis.study import STUDIES, Study
from subcloning.analysis.verdicts import (
    NOT,
    PARTLY,
    REPRODUCED,
    better_end,
    correlated_layers,
    early_speed_up,
    lower_optimum,
    middle_blocks,
    nearer_parent,
    without,
)
from subcloning.method.observe import hooked
from subcloning.training.run import run

DIGITS = STUDIES["digits"]
SCALING = without("subclone_no_scaling")


@pytest.mark.parametrize(("build", "place"), [(vit, "blocks"), (gpt2, "transformer.h")])
def test_a_removed_block_is_one_that_is_not_there(build, place):
    model = build()
    x = inputs(model)
    for change, order in ((CHANGES["removed"], [0, 2]), (CHANGES["duplicated"], [0, 1, 1, 2])):
        other = copy.deepcopy(model)
        blocks = other.get_submodule(place)
        chosen = [blocks[i] for i in order]
        other.set_submodule(
            place, nn.Sequential(*chosen) if isinstance(blocks, nn.Sequential) else nn.ModuleList(chosen)
        )
        with hooked(model, [(f"{place}.1", change)]):
            found = outputs(model, x)
        torch.testing.assert_close(found, outputs(other, x))
        assert not torch.allclose(found, outputs(model, x), atol=1e-4)


@pytest.fixture
def digits(config, tmp_path):
    """Overrides of an experiment with a tiny trained parent."""
    tiny = ["parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=3", "logger=csv"]
    summary = run(config("experiment=digits_parent", *tiny, "optim.epochs=2"))
    (weights,) = (tmp_path / "runs").glob("digits_parent/*/*/model/model.safetensors")
    return ["experiment=digits", *tiny, f"parent.weights.checkpoint_path='{weights}'"], summary


def test_parent_is_measured(config, digits, tmp_path):
    overrides, summary = digits
    cfg = config(*overrides)
    blocks = pd.read_csv(measure("fig02", cfg, tmp_path / "out"))
    assert blocks["block"].tolist() == [0, 1, 2]
    assert blocks["loss"].tolist() == pytest.approx([summary["val_loss"]] * 3, rel=1e-4)
    assert blocks["share"].between(0, 2).all()
    assert (blocks[["removed", "duplicated"]].sub(blocks["loss"], axis=0) != 0).any().all()
    units = read_units(measure("fig03", cfg, tmp_path / "out"))
    assert units.groupby("axis")["unit"].nunique().to_dict() == {"residual": 16, "head": 4, "hidden": 64}
    data = instantiate(cfg.data, _convert_="all")
    model = instantiate(cfg.parent, _convert_="all").trained().eval()
    seen = []
    model.blocks[1].register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    with torch.no_grad():
        for batch in data.scoring_batches(0, 1):
            model(batch)
    wanted = torch.cat(seen).abs().mean((0, 1)).numpy()
    found = units[(units["axis"] == "residual") & (units["block"] == 1)].sort_values("unit")["score"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    assert {file.suffix for file in (tmp_path / "out").rglob("*.*")} == {".csv", ".md", ".png", ".pdf"}
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text("label: mine\n")
    measure("fig03", cfg, study)
    assert {file.name for file in study.iterdir()} == {"study.yaml", "units.csv"}  # its figures stand elsewhere
    with pytest.raises(SubcloningError, match="fig11 is of runs, not of a parent"):
        measure("fig11", cfg, tmp_path / "out")


def case(arms, study=DIGITS, make=curves, **others):
    return Evidence(study, make(arms), **others)


def test_verdict_on_the_speed_up():
    assert early_speed_up(case({"random": [16, 17, 18], "subclone": [3, 4, 4]})).verdict == REPRODUCED
    assert early_speed_up(case({"random": [16, 17, 18], "subclone": [8, 8, 9]})).verdict == PARTLY
    assert early_speed_up(case({"random": [8, 8, 9], "subclone": [16, 17, 18]})).verdict == NOT
    assert early_speed_up(case({"random": [10, 14, 18], "subclone": [9, 14, 19]})).verdict == NOT
    noisy = early_speed_up(case({"random": [10, 17, 20], "subclone": [3, 4, 5]}))  # 3.8 times, but up to 10
    assert noisy.verdict == PARTLY
    wide = early_speed_up(case({"random": [16, 17, 20], "subclone": [2, 4, 7]}))  # 4.6 times, but down to 1.2
    assert wide.verdict == PARTLY
    never = early_speed_up(case({"random": [8, 8, 9], "subclone": [50, 50, 50]}))
    assert never.verdict == NOT
    assert never.seeds == "3"


def test_a_time_before_the_first_validation_is_a_guess():
    runs = curves({"random": [16, 17, 18], "subclone": [3, 4, 4]})
    often, seldom = (early_speed_up(Evidence(DIGITS, runs[runs["epoch"] % every == 0])) for every in (1, 4))
    assert (often.verdict, seldom.verdict) == (REPRODUCED, PARTLY)
    assert often.ours.endswith("to 90%")
    least = 0.9 * (16 * 17 * 18) ** (1 / 3) / 4
    assert float(re.search(r"; (\S+) \[.*\] if not before a first validation$", seldom.ours)[1]) == pytest.approx(
        least, 0.01
    )


def test_of_two_that_are_there_by_their_first_validation_none_is_sooner():
    def finding(every, subclone, ablation):
        runs = curves({"random": [16, 17, 18], "subclone": subclone, "subclone_no_scaling": ablation})
        return SCALING(Evidence(DIGITS, runs[runs["epoch"] % every == 0]))

    assert (finding(1, [2, 2, 2], [3, 3, 3]).verdict, finding(4, [2, 2, 2], [3, 3, 3]).verdict) == (PARTLY, NOT)
    assert finding(4, [2, 2, 2], [3, 3, 3]).ours.startswith("both at 90% by their first validation; at the end ")
    assert finding(4, [3, 3, 3], [9, 9, 9]).verdict == PARTLY  # seen to be sooner, and the same at the end
    assert "; 1.07 [" in finding(4, [3, 3, 3], [3, 3, 4.6]).ours  # one run is there later: at 4.93


TOKENS = Study("tokens", "val_loss", math.log(1000), tuned_for="final", shown=(0,))


def test_verdict_on_the_end_and_on_an_ablation():
    def ends(subclone, other, init="random", random=8.0):
        return case({init: other, "subclone": subclone, "random": [random] * 3}, TOKENS, losses)

    assert better_end(case({"random": [6.0] * 3, "subclone": [4.0] * 3}, TOKENS, losses)).verdict == REPRODUCED
    assert better_end(case({"random": [4.0] * 3, "subclone": [6.0] * 3}, TOKENS, losses)).verdict == NOT
    assert better_end(case({"random": [4, 5, 6], "subclone": [6, 5, 4]}, TOKENS, losses)).verdict == NOT
    ablation = "subclone_no_scaling"
    assert SCALING(ends([4.0] * 3, [5.0] * 3, ablation)).verdict == REPRODUCED
    assert SCALING(ends([5.0] * 3, [4.0] * 3, ablation)).verdict == NOT
    assert SCALING(ends([4.0, 4.1, 4.2], [4.0, 4.1, 4.2], ablation)).verdict == NOT
    assert SCALING(case({"random": [6.0] * 3, "subclone": [4.0] * 3}, TOKENS, losses)) is None
    # Sooner, and the same at the end: all curves of accuracy end at 1.
    assert SCALING(case({"random": [16] * 3, "subclone": [4] * 3, ablation: [8] * 3})).verdict == PARTLY


def test_verdict_on_a_bigger_parent():
    arms = {"random": [16] * 3, "subclone": [4, 4, 5]}
    for lengths, verdict in (([10] * 3, PARTLY), ([2] * 3, NOT)):
        bigger = curves({"subclone": lengths})
        finding = nearer_parent(case(arms, bigger=bigger))
        assert finding.verdict == verdict
    assert nearer_parent(case(arms)) is None
    assert BIGGER.name not in set(case(arms).runs["init"])


def test_verdict_on_the_optimum():
    def grid(random, subclone):
        wanted = {"random": random, "subclone": subclone}
        return pd.concat(
            curves({init: [4 if (lr, wd) == best else 15]}).assign(lr=lr, weight_decay=wd)
            for init, best in wanted.items()
            for lr in (1e-4, 1e-3)
            for wd in (0.01, 0.1)
        )

    def verdict(random, subclone):
        return lower_optimum(case({"random": [9], "subclone": [9]}, grid=grid(random, subclone))).verdict

    assert verdict((1e-3, 0.1), (1e-4, 0.01)) == REPRODUCED
    assert verdict((1e-3, 0.1), (1e-3, 0.01)) == PARTLY
    assert verdict((1e-3, 0.1), (1e-3, 0.1)) == NOT
    assert verdict((1e-4, 0.1), (1e-3, 0.01)) == NOT


def test_verdict_on_blocks_and_layers():
    def of(removed, duplicated):
        blocks = pd.DataFrame({"block": range(4), "loss": 1.0, "removed": removed, "duplicated": duplicated})
        return middle_blocks(case({"random": [9]}, blocks=blocks)).verdict

    assert of([3, 1.1, 1.2, 2], [3, 1.1, 1.2, 2]) == REPRODUCED
    assert of([3, 1.1, 1.2, 2], [1.1, 2, 3, 4]) == PARTLY
    assert of([3, 2, 1.2, 1.1], [1.1, 2, 3, 4]) == NOT
    assert of([1.5, 1.1, 9, 1.5], [1.5, 1.1, 9, 1.5]) == NOT
    random = np.random.default_rng(0)
    first = random.exponential(size=200)
    for noise, verdict in ((0.01, REPRODUCED), (0.7, PARTLY), (100, NOT)):
        tables = [
            pd.DataFrame({"axis": "residual", "block": block, "unit": range(200), "score": first + noise * extra})
            for block, extra in enumerate(random.exponential(size=(3, 200)))
        ]
        units = pd.concat(tables)
        assert correlations(units).shape == (3, 3)
        assert correlated_layers(case({"random": [9]}, units=units)).verdict == verdict


def test_results_say_not_reproduced_the_rule_and_what_was_not_run():
    text = results([case({"random": [4, 4, 5], "subclone": [16, 17, 18]})])
    first = text.split("## ")[1]
    assert f"| {NOT} |" in first
    assert REPRODUCED not in first.replace(NOT, "").split("Rule:")[0]
    assert f"\nRule: {CLAIMS[0].rule}\n" in first
    assert text.count("\n## ") == text.count("\nRule: ") == len(CLAIMS)
    rows = not_yet_run().splitlines()
    assert "| paper | `python -m subcloning.submit cluster=mine experiment=fig09_vit` | Fig. 1, 9 |" in rows
    assert len(set(rows)) == len(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """experiments/ and README.md, with everything made again from the committed data."""
    folder = tmp_path_factory.mktemp("made")
    given = (file for name in ("*.csv", "*.json", "R*.md") for file in ROOT.glob(f"experiments/**/{name}"))
    for file in (*given, ROOT / "README.md"):
        target = folder / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    everything(folder / "experiments")
    return folder


@pytest.mark.xdist_group("made")  # by one worker, once
def test_what_is_committed_is_what_the_code_makes(made):
    files = [file.relative_to(made) for file in made.rglob("*.*")]
    for file in files:
        if file.suffix == ".pdf":  # made, but not committed
            continue
        assert (ROOT / file).exists(), f"{file} is not committed: call make figures"
        if file.suffix in (".csv", ".md"):
            assert (made / file).read_text() == (ROOT / file).read_text(), f"{file} is old: call make figures"
        if file.suffix == ".png":
            found, wanted = (np.asarray(Image.open(folder / file).convert("L"), float) for folder in (made, ROOT))
            assert found.shape == wanted.shape, file
            assert np.abs(found - wanted).mean() < 1, f"{file} is old: call make figures"
    figures = set(ROOT.glob("experiments/**/*.png"))
    assert figures == {ROOT / file for file in files if file.suffix == ".png"}


def test_every_claim_is_measured_at_mini_scale_for_both_kinds():
    found = {e.study.name: [claim.find(e) for claim in CLAIMS] for e in evidence(ROOT / "experiments")}
    assert all(found["digits"])
    assert all(found["gpt2_stdlib"])


@pytest.mark.xdist_group("made")
def test_figures_are_the_same_bytes_again(made, tmp_path):
    shutil.copytree(made / "experiments", tmp_path / "experiments")
    FIGURES["fig11"](tmp_path / "experiments", evidence(tmp_path / "experiments"))
    for name in ("digits.png", "digits.pdf", "table.md"):
        one, other = (folder / "experiments" / "fig11_tuning" / name for folder in (made, tmp_path))
        assert one.read_bytes() == other.read_bytes()


def test_every_figure_has_its_folder_and_every_folder_its_readme():
    for claim in CLAIMS:
        assert Path(ROOT, "experiments", claim.folder, "README.md").exists(), claim.folder
