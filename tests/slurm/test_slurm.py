"""Sweeps on a real SLURM: arrays, several nodes, signals, kills, a node cut off. Run by `make test-slurm`."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from subcloning.status import status
from subcloning.submit import profile, submit

HERE = Path(__file__).parent
CLUSTER = HERE / "cluster.sh"


def missing() -> str | None:
    if os.environ.get("SUBCLONING_TEST_SLURM") != "1":
        return "changes the machine (packages, network namespaces, /etc/hosts): call make test-slurm"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "needs root on Debian, to bring up a SLURM"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["SLURM_CONF"] = "/var/tmp/subcloning-slurm/slurm.conf"
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True, env={**os.environ, "NODES": "2"}, check=False)
    if up.returncode == 3:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stdout + up.stderr
    yield
    subprocess.run([CLUSTER, "down"], check=True)


TINY = ["parent.model.embed_dim=32", "parent.model.num_heads=2", "parent.model.depth=2", "trainer=cpu", "logger=csv"]
RECIPE = ["recipe.ema_decay=0.9", "recipe.mixup=0.2", "recipe.shift=1", "recipe.dropout=0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs go there; a parent for all of them."""
    folder = tmp_path_factory.mktemp("slurm")
    os.environ["SUBCLONING_RUNS"] = str(folder / "runs")
    options = ["experiment=digits_parent", *TINY, "optim.epochs=2"]
    subprocess.run([sys.executable, "-m", "subcloning.train", *options], check=True)
    (weights,) = folder.glob("runs/digits_parent/*/*/model/model.safetensors")
    (folder / "parent.safetensors").symlink_to(weights)
    return folder


@pytest.fixture
def sweep(folder, request):
    """sweep(*overrides, KEY=VALUE of the cluster) -> the sweep's folder; its runs are named after the test."""
    name = re.sub(r"\W", "_", request.node.name)

    def make(*overrides, **changes):
        options = {"python": sys.executable, "cpus_per_task": 1, "time": "0:30:00", "parallel": 2} | changes
        options["setup"] = "['export OMP_NUM_THREADS=1']"
        cluster = profile("base", [f"{key}={value}" for key, value in options.items()])
        weights = f"parent.weights.checkpoint_path={folder}/parent.safetensors"
        return submit(["experiment=digits", f"name={name}", *TINY, *RECIPE, weights, *overrides], cluster)

    yield make
    subprocess.run(["scancel", "--name", name], check=True)


def wait(sweep: Path, condition, seconds: int = 400):
    """Until `condition(status)` holds."""
    end = time.time() + seconds
    while not condition(table := status(sweep)):
        hurry()
        if time.time() > end:
            logs = "\n".join(f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in (sweep / "logs").iterdir())
            pytest.fail(f"waited {seconds} s for\n{table.to_string()}\n{logs}")
        time.sleep(0.5)
    return table


def hurry() -> None:
    """A requeued job would wait for two minutes, which SLURM fixes: bid it start after ten seconds.

    Started in the second in which it was ended, a job is lost: slurmd takes its credential for the revoked one.
    """
    command = ["squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %S %r"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        job, start, reason = line.split(maxsplit=2)  # a reason can be a sentence
        if reason == "BeginTime" and datetime.fromisoformat(start) - datetime.now() < timedelta(seconds=110):
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)


def states(table) -> list[str]:
    return sorted(table["state"])


def settled(table) -> bool:
    return set(table["state"]) <= {"done", "failed"}


def run_dirs(sweep: Path) -> list[Path]:
    from omegaconf import OmegaConf

    return [Path(OmegaConf.load(file).run_dir) for file in sorted((sweep / "configs").glob("*.yaml"))]


def result(run_dir: Path):
    return load_file(run_dir / "model" / "model.safetensors"), (run_dir / "metrics.csv").read_text()


def assert_same(a: Path, b: Path) -> None:
    (weights, curve), (wanted, wanted_curve) = result(a), result(b)
    assert curve == wanted_curve
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def epochs(run_dir: Path) -> int:
    file = run_dir / "metrics.csv"
    return int(pd.read_csv(file)["epoch"].iloc[-1]) if file.exists() else -1


def processes(sweep: Path) -> list[int]:
    """That train a run of the sweep, by the config that they were given."""
    pattern = f"subcloning.train --config-dir {sweep}"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def job_of(sweep: Path) -> str:
    return (sweep / "jobs.txt").read_text().split()[-1]


def test_sweep_with_a_limit_and_resubmission(sweep, capsys):
    """Eight runs, two at a time. The same command again submits what is missing, and only that."""
    command = ["init=subclone,random", "seed=range(4)", "optim.epochs=1", "optim.lr=1e-3", "optim.weight_decay=0.05"]
    folder = sweep(*command)
    first = wait(folder, lambda table: "running" in set(table["state"]))
    assert states(first).count("running") <= 2
    assert set(first["state"]) <= {"pending", "running", "done"}
    assert sweep(*command) == folder
    assert "8 in the queue, 0 to submit" in capsys.readouterr().out
    done = wait(folder, settled, 400)
    assert states(done) == ["done"] * 8
    assert done["val_accuracy"].notna().all()
    shutil.rmtree(run_dirs(folder)[3])
    finished = {path: (path / "summary.json").stat().st_mtime for path in run_dirs(folder) if path.exists()}
    assert states(status(folder)) == ["done"] * 7 + ["failed"]
    sweep(*command)
    assert "7 done, 0 in the queue, 1 to submit" in capsys.readouterr().out
    assert states(wait(folder, settled)) == ["done"] * 8
    assert all((path / "summary.json").stat().st_mtime == when for path, when in finished.items())


def test_a_failing_run_shows_and_does_not_take_the_others_down(sweep):
    folder = sweep("init=subclone", "seed=0", "optim.epochs=1", "optim.lr=1e-3,-1", "optim.weight_decay=0.05")
    table = wait(folder, settled)
    assert states(table) == ["done", "failed"]
    (log,) = table.loc[table["state"] == "failed", "log"]
    assert "Invalid learning rate: -1" in log.read_text()


LONG = ["init=subclone", "seed=0", "optim.epochs=40", "optim.lr=1e-3", "optim.weight_decay=0.05"]


@pytest.fixture(scope="module")
def undisturbed(folder):
    options = ["experiment=digits", "name=undisturbed", *TINY, *RECIPE, *LONG]
    weights = f"parent.weights.checkpoint_path={folder}/parent.safetensors"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "subcloning.train", *options, weights], check=True, env=env)
    (summary,) = folder.glob("runs/undisturbed/*/*/summary.json")
    return summary.parent


def test_signal_and_kill_are_survived_bit_for_bit(sweep, undisturbed, record_property):
    """USR1, at which the run saves and requeues itself; then SIGKILL, after which the job's script does."""
    folder = sweep(*LONG)
    (run_dir,) = run_dirs(folder)
    wait(folder, lambda _: epochs(run_dir) >= 3)
    time.sleep(random.uniform(0, 0.5))
    subprocess.run(["scancel", "--signal=USR1", job_of(folder)], check=True)
    wait(folder, lambda _: "stopped by SIGUSR1" in (folder / "logs" / "0.out").read_text(errors="replace"))
    reached = epochs(run_dir)
    wait(folder, lambda _: epochs(run_dir) > reached + 1)
    for pid in processes(folder):
        os.kill(pid, 9)
    wait(folder, lambda table: states(table) != ["running"])
    assert epochs(run_dir) < 40
    assert states(wait(folder, lambda table: states(table) == ["done"])) == ["done"]
    assert (folder / "logs" / "0.out").read_text(errors="replace").count("stopped by SIGUSR1") == 1
    assert_same(run_dir, undisturbed)
    record_property("interruptions", 2)


def test_a_node_cut_off_is_survived(sweep, undisturbed, record_property):
    """SLURM finds the node down and requeues the job, which goes on, there or elsewhere."""
    folder = sweep(*LONG)
    (run_dir,) = run_dirs(folder)
    wait(folder, lambda _: epochs(run_dir) >= 3)
    node = subprocess.run(
        ["squeue", "--noheader", "--format=%N", f"--jobs={job_of(folder)}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run([CLUSTER, "cut", node], check=True)
    try:
        wait(folder, lambda table: states(table) != ["running"], 120)
        # What is left of the job on the lost node must not go on beside its second start.
        for pid in processes(folder):
            os.kill(pid, 9)
    finally:
        subprocess.run([CLUSTER, "mend", node], check=True)
    assert states(wait(folder, settled)) == ["done"]
    assert_same(run_dir, undisturbed)
    record_property("interruptions", 1)


def test_two_nodes_train_as_one(sweep):
    """DDP over two nodes at the same global batch: the same curve, and equal weights on both ranks."""
    options = ["init=subclone", "seed=0", "optim.epochs=3", "optim.lr=1e-3", "optim.weight_decay=0.05"]
    options += ["recipe.mixup=0", "recipe.shift=0", "recipe.dropout=0"]
    two = sweep(*options, "trainer.num_nodes=2", "run_dir=${runs}/two/${run}")
    one = sweep(*options)
    assert states(wait(two, settled)) == states(wait(one, settled)) == ["done"]
    (a,), (b,) = run_dirs(two), run_dirs(one)
    curves = [pd.read_csv(path / "metrics.csv") for path in (a, b)]
    pd.testing.assert_frame_equal(*curves, atol=1e-4, rtol=0)  # written with six digits: the last may differ by one
    weights = [result(path)[0] for path in (a, b)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-3, rtol=0)  # Adam magnifies rounding
    said = (two / "logs" / "0.out").read_text()
    assert "2 ranks begin with the same weights" in said


def test_submitit_launchers(folder):
    """Hydra's own way: local, and on SLURM, where submitit's USR2 saves, requeues and goes on."""
    weights = f"parent.weights.checkpoint_path={folder}/parent.safetensors"
    command = [sys.executable, "-m", "subcloning.train", "-m", "experiment=digits", *TINY, weights, *LONG]
    local = ["name=submitit_local", "optim.epochs=1", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=30"]
    subprocess.run([*command, *local], check=True, capture_output=True)
    assert len(list(folder.glob("runs/submitit_local/*/*/summary.json"))) == 1
    slurm = ["name=submitit_slurm", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60"]
    slurm += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.name=submitit"]
    with subprocess.Popen([*command, *slurm], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        end = time.time() + 900
        while not (found := list(folder.glob("runs/submitit_slurm/*/*/last.ckpt"))):
            assert time.time() < end
            time.sleep(0.5)
        (run_dir,) = (path.parent for path in found)
        subprocess.run(["scancel", "--signal=USR2", "--name=submitit"], check=True)
        while launcher.poll() is None:
            assert time.time() < end
            hurry()
            time.sleep(0.5)
    assert launcher.returncode == 0
    assert epochs(run_dir) == 40
    logs = "".join(file.read_text() for file in folder.glob("runs/.submitit/*/*_log.err"))
    assert logs.count("stopped by SIGUSR2") == 1
