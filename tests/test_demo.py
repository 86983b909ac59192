"""The demos: nothing that is committed changes, and both tables are shown."""

import shutil
from pathlib import Path

import pytest

from subcloning import collect, demo
from subcloning.analysis import __main__ as analysis
from subcloning.analysis.study import STUDIES
from subcloning.submit import expand
from subcloning.training.run import run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", demo.DEMOS)
def test_children_take_the_weights_of_the_demos_own_parent(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SUBCLONING_RUNS", str(tmp_path))
    (parent,) = expand([f"experiment={name}_parent"])
    children = expand([f"experiment={name}", "seed=0"])
    assert len(children) == 4
    for child in children:
        (weights,) = map(Path, child.parent.weights.values())
        assert Path(parent.run_dir, "model") in (weights, weights.parent)  # a folder, or the file in it
    assert demo.DEMOS[name].study in STUDIES


def test_demo_leaves_what_is_committed(monkeypatch, tmp_path, capsys):
    """At tiny size, and in this process."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUBCLONING_RUNS", raising=False)

    def here(module, *arguments):
        monkeypatch.setattr("sys.argv", [module, *map(str, arguments)])
        if module == "train":
            for cfg in expand([word for word in arguments if word != "-m" and not word.startswith("hydra/")]):
                run(cfg)
        else:
            {"collect": collect, "analysis": analysis}[module].main()

    monkeypatch.setattr(demo, "python", here)
    monkeypatch.setattr(demo, "benchmark", lambda: 2 * demo.SECONDS)
    monkeypatch.setattr(demo.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr("sys.argv", ["demo", "digits", "seed=0", "optim.epochs=1", "logger=csv"])

    def files():
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "runs" not in file.parts}

    before = files()
    demo.main()
    said = capsys.readouterr().out
    assert [file for file, content in files().items() if before.get(file) != content] == []
    for folder in ("experiments/digits", "runs/digits/report"):
        assert Path(folder, "table.md").read_text() in said
    assert Path("runs/digits/report/convergence.png").stat().st_size > 10_000
    plan = demo.DEMOS["digits"]
    assert said.startswith(f"About {2 * (plan.parent + plan.children / 2):.0f} minutes on the 2 cores here")
