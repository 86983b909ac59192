"""Submissions that SLURM would do twice, refuse or misread: at once, of more runs than an array has, with odd names."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from subcloning import SubcloningError
from subcloning.status import status
from subcloning.submit import expand, profile, submit
from subcloning.training.slurm import SWEEPS, array_size, script

TWELVE = [
    "experiment=digits",
    "init=random",
    "seed=range(12)",
    "optim.lr=1e-3",
    "optim.weight_decay=0.1",
    "trainer=cpu",
]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM of four shell scripts: arrays have at most 16 tasks, so ids up to 15; what waits is in queue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SUBCLONING_RUNS", str(tmp_path / "runs"))
    scripts = {
        "scontrol": "echo 'MaxArraySize            = 16'; echo 'MaxJobCount             = 10000'",
        "squeue": f"cat {tmp_path}/queue",
        # Its job has the number of the submission, counted from 100.
        "sbatch": f'echo "$@" >> {tmp_path}/calls; echo $((99 + $(wc -l < {tmp_path}/calls)))',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "queue").write_text("")
    return tmp_path


def options(file: Path) -> dict[str, str]:
    """The options in a script, read as sbatch does: words, with quotes and comments as in a shell."""
    lines = [line[8:] for line in file.read_text().splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(len(found) == 1 for found in words)  # sbatch takes what follows a blank for an option
    return dict(word.partition("=")[::2] for (word,) in words)


def test_more_runs_than_an_array_has(slurm, capsys):
    assert array_size() == 10
    folder = submit(TWELVE, profile("base", ["parallel=4"]))
    calls = (slurm / "calls").read_text().splitlines()
    assert calls == [f"--parsable {folder}/sbatch.sh", f"--parsable --dependency=afterany:100 {folder}/sbatch-1.sh"]
    first, second = (options(folder / name) for name in ("sbatch.sh", "sbatch-1.sh"))
    assert (first["--array"], second["--array"]) == ("0-9%4", "0-1%4")
    assert (first["--output"], second["--output"]) == (f"{folder}/logs/%a.out", f"{folder}/logs/1%1a.out")
    assert (folder / "jobs.txt").read_text() == "100\n101 10\n"

    (slurm / "queue").write_text("100 3 RUNNING\n101 0 PENDING\n101 1 PENDING\n")
    table = status(folder)
    assert table["state"].tolist() == ["not submitted"] * 3 + ["running"] + ["not submitted"] * 6 + ["pending"] * 2
    submit(TWELVE, profile("base", ["parallel=4"]))
    assert "12 runs, 0 done, 3 in the queue, 9 to submit" in capsys.readouterr().out
    assert options(folder / "sbatch.sh")["--array"] == "0-2,4-9%4"


def test_a_task_of_a_later_array_finds_its_run(slurm):
    submit(TWELVE, profile("base", ["python=echo"]))
    (file,) = (slurm / "runs" / SWEEPS).glob("*/sbatch-1.sh")
    srun = slurm / "bin" / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{slurm}/bin:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "1"}
    said = subprocess.run(["bash", file], env=env, capture_output=True, text=True, check=True).stdout
    assert said.split()[-2:] == ["--config-name", "0011"]
    assert OmegaConf.load(file.parent / "configs" / "0011.yaml").seed == 11


def test_where_no_slurm_says_its_limit_there_is_one_array(slurm, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert array_size() is None
    folder = submit(TWELVE, profile("base", []), dry=True)
    assert options(folder / "sbatch.sh")["--array"] == "0-11%16"


def test_two_submissions_take_turns(slurm, monkeypatch):
    seen = []

    def sbatch(file, *options):
        with pytest.raises(Timeout):
            FileLock(slurm / "runs" / f"{SWEEPS}.lock").acquire(blocking=False)
        seen.append(file)
        return "5"

    monkeypatch.setattr("subcloning.submit.sbatch", sbatch)
    submit(TWELVE[:2] + TWELVE[3:] + ["seed=0"], profile("base", []))
    assert len(seen) == 1
    FileLock(slurm / "runs" / f"{SWEEPS}.lock").acquire(blocking=False)


def test_names_and_paths_with_blanks(slurm, monkeypatch):
    monkeypatch.setenv("SUBCLONING_RUNS", f"{slurm}/my runs #1, 50%")
    cluster = profile("base", ["account='my account'"])
    folder = submit([*TWELVE[:1], "name='my study'", *TWELVE[1:2], "seed=0", *TWELVE[3:]], cluster)
    found = options(folder / "sbatch.sh")
    assert found["--job-name"] == "my study"
    assert found["--account"] == "my account"
    assert found["--output"] == f"{slurm}/my runs #1, 50%%/{SWEEPS}/{folder.name}/logs/%a.out"
    assert found["--signal"] == "USR1@120"
    assert subprocess.run(["bash", "-n", folder / "sbatch.sh"], check=False).returncode == 0


def test_what_a_job_needs_must_be_said(slurm):
    runs = expand([*TWELVE[:-1], "trainer.accelerator=auto"])
    with pytest.raises(SubcloningError, match=r"trainer.devices=1 and accelerator=auto: say what a job needs"):
        script(slurm, runs, [0], profile("base", []))
    assert "--gpus-per-node" not in script(slurm, expand(TWELVE), [0], profile("base", []))


def test_a_recipe_that_does_nothing_is_refused_before_it_waits_in_the_queue(slurm):
    with pytest.raises(SubcloningError, match=re.escape("recipes are for images")):
        submit(["experiment=gpt2_stdlib", "recipe=plain", "init=random", "seed=0", "trainer=cpu"], profile("base", []))
