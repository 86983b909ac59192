"""What a submission writes, without a SLURM."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from subcloning import SubcloningError
from subcloning.status import status
from subcloning.submit import expand, profile, submit
from subcloning.training.record import revision
from subcloning.training.slurm import ranges, script


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCLONING_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM, even where there is one
    return tmp_path / "runs"


SWEEP = ["experiment=digits", "init=random,uniform", "seed=range(2)", "optim.lr=1e-3", "optim.weight_decay=0.1"]


def test_expansion_is_hydras():
    found = sorted((run.init.name, run.seed) for run in expand(SWEEP))
    assert found == [("random", 0), ("random", 1), ("uniform", 0), ("uniform", 1)]
    own = expand(["experiment=digits", "seed=5"])  # the experiment's own init modes
    assert [(run.init.name, run.seed) for run in own] == [
        ("random", 5),
        ("subclone", 5),
        ("subclone_no_scaling", 5),
        ("subclone_no_reordering", 5),
    ]
    assert own[0].optim.lr != own[2].optim.lr  # each at its tuned setting


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([3]) == "3"


def test_script_of_a_gpu_sweep(runs):
    cluster = profile("base", ["partition=a100", "time=2-00:00:00", "setup=['module load cuda']", "grace=300"])
    folder = submit(["experiment=fig14_reordering"], cluster, dry=True)
    text = (folder / "sbatch.sh").read_text()
    options = dict(
        line[10:].split("=", 1) for line in text.splitlines() if line.startswith("#SBATCH --") and "=" in line
    )
    assert options["array"] == "0-8%16"
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("1", "8", "8")
    assert (options["partition"], options["time"], options["signal"]) == ("a100", "2-00:00:00", "USR1@300")
    assert "account" not in options
    assert text.index("module load cuda") < text.index("srun ")
    assert "SRUN_CPUS_PER_TASK=8" in text
    assert re.search(r"== 137 .*\n    scontrol requeue", text)
    assert subprocess.run(["/bin/bash", "-n", folder / "sbatch.sh"], check=False).returncode == 0
    runs_ = [OmegaConf.load(file) for file in sorted((folder / "configs").glob("*.yaml"))]
    assert [run.init.name for run in runs_[::3]] == ["random", "subclone", "subclone_no_reordering"]
    assert all(Path(run.run_dir).is_absolute() for run in runs_)


def test_finished_runs_are_left_out_and_shown(runs, capsys):
    cluster = profile("base", [])
    folder = submit([*SWEEP, "trainer=cpu"], cluster, dry=True)
    second = Path(OmegaConf.load(folder / "configs" / "0001.yaml").run_dir)
    second.mkdir(parents=True)
    (second / "summary.json").write_text('{"epoch": 25, "val_accuracy": 0.5}')
    assert submit([*SWEEP, "trainer=cpu"], cluster, dry=True) == folder
    assert "4 runs, 1 done, 0 in the queue, 3 to submit" in capsys.readouterr().out
    assert "--array=0,2-3%16" in (folder / "sbatch.sh").read_text()
    table = status(folder)
    assert table["state"].tolist() == ["not submitted", "done", "not submitted", "not submitted"]
    assert table["val_accuracy"].tolist()[1] == 0.5


def test_runs_in_the_queue_are_left_out_whatever_sweep_they_are_of(runs, capsys, tmp_path, monkeypatch):
    cluster = profile("base", [])
    first = submit([*SWEEP, "trainer=cpu"], cluster, dry=True)
    (first / "jobs.txt").write_text("17\n")
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '17 2 PENDING'; echo '17 0 RUNNING'; echo '99 1 RUNNING'; echo '5 N/A RUNNING'")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent))
    assert status(first)["state"].tolist() == ["running", "not submitted", "pending", "not submitted"]
    second = submit([*SWEEP[:2], "seed=range(3)", *SWEEP[3:], "trainer=cpu"], cluster, dry=True)
    assert second != first
    assert "6 runs, 0 done, 2 in the queue, 4 to submit" in capsys.readouterr().out
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SubcloningError, match=r"squeue does not answer \(Unable to contact"):
        submit([*SWEEP, "trainer=cpu"], cluster, dry=True)


def test_snapshot_knows_what_it_is_a_copy_of(runs):
    folder = submit([*SWEEP, "trainer=cpu"], profile("base", []), dry=True)
    said = json.loads((folder / "code" / "snapshot.json").read_text())
    assert said == revision()
    assert (folder / "code" / "src" / "subcloning" / "train.py").exists()


def test_refusals(runs):
    with pytest.raises(SubcloningError, match=r"there is no slurm/mine.yaml, only .*base"):
        profile("mine", [])
    cluster = profile("base", [])
    with pytest.raises(SubcloningError, match=r"several runs have the folder .*several names"):
        submit([*SWEEP, "optim.batch_size=64,128"], cluster)
    with pytest.raises(SubcloningError, match=r"trainer.devices=1 and accelerator=auto: say what a job needs"):
        submit(SWEEP, cluster)
    both = expand([*SWEEP, "trainer=cpu,gpu"])
    with pytest.raises(SubcloningError, match=r"need the same trainer.num_nodes"):
        script(runs, both, [0], cluster)
    with pytest.raises(SubcloningError, match=r"there is no sbatch here"):
        submit([*SWEEP, "trainer=cpu"], cluster)
