"""A second job of two ranks in a folder where one runs, and refusals: all ranks end, and none is left hanging."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from subcloning import SubcloningError
from subcloning.files import locked
from subcloning.training.interruptions import Interrupted
from subcloning.training.ranks import broadcast_weights, from_rank_zero
from subcloning.training.run import run

TINY = ["experiment=digits_parent", "parent.model.embed_dim=16", "parent.model.num_heads=4", "parent.model.depth=1"]
TINY += ["optim.epochs=1", "logger=csv", "trainer=cpu", "trainer.devices=2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def two_ranks(*command, **options):
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*TORCHRUN, *command], env=env, stdout=subprocess.PIPE, text=True, **options)


def finished(job):
    """What it said to its end. Of one that hangs, torchrun ends all ranks when it is told to stop."""
    try:
        return job.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        job.terminate()
        job.communicate()
        raise


def test_all_ranks_of_a_second_job_wait_and_then_find_it_done(config):
    """Run by torchrun, to which a rank that hangs is a job that hangs."""
    folder = Path(config(*TINY).run_dir)
    run(config(*TINY, "trainer.devices=1"))
    summary = (folder / "summary.json").rename(folder / "later.json")
    with locked(folder / ".lock"):
        second = two_ranks("-m", "subcloning.train", *TINY)
        assert any("waiting for its end" in line for line in second.stdout)
        summary.rename(folder / "summary.json")
    said = finished(second)
    assert second.returncode == 0
    assert said.count("done before") == 1


def test_what_rank_zero_finds_ends_all(config, tmp_path):
    """Each rank writes what it raised."""
    run(config(*TINY, "trainer.devices=1"))
    second = two_ranks(__file__, str(tmp_path), *TINY, "optim.epochs=2", cwd=Path(__file__).parent)
    finished(second)
    assert second.returncode == 0
    for rank in (0, 1):
        said = (tmp_path / f"refusal{rank}").read_text()
        assert "holds another run: optim.epochs = 1 (wanted 2)" in said
        assert (tmp_path / f"others{rank}").read_text() == "[7, SIGUSR1, rank 0 ended with KeyError('x')]"
        assert (tmp_path / f"weights{rank}").read_text() == "0.0"


def raised(do, kind):
    try:
        from_rank_zero(do)
    except kind as error:
        return error


def of_one_rank(folder: Path, *overrides: str) -> None:
    from conftest import CONFIGS
    from hydra import compose, initialize_config_dir

    def fail(error):
        raise error

    with initialize_config_dir(CONFIGS, version_base="1.3"):
        try:
            run(compose("train", overrides=list(overrides)))
        except SubcloningError as refusal:
            rank = dist.get_rank()
            (folder / f"refusal{rank}").write_text(str(refusal))
    stop = raised(lambda: fail(Interrupted(10)), Interrupted)
    other = raised(lambda: fail(KeyError("x")), (KeyError, RuntimeError))
    other = RuntimeError(f"rank 0 ended with {other!r}") if rank == 0 else other
    found = from_rank_zero(lambda: 7 + rank), "SIGUSR1" if stop.signum == 10 else stop, other
    (folder / f"others{rank}").write_text(f"[{', '.join(map(str, found))}]")
    model = torch.nn.Linear(3, 3)
    torch.nn.init.constant_(model.weight, rank)
    broadcast_weights(model, torch.device("cpu"))
    (folder / f"weights{rank}").write_text(str(model.weight.sum().item()))


if __name__ == "__main__":
    of_one_rank(Path(sys.argv[1]), *sys.argv[2:])
