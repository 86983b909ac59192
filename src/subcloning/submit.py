"""Submit a sweep to SLURM: `python -m subcloning.submit cluster=mine experiment=fig11_lr_wd seed=0,1`.

Takes what `subcloning.train -m` takes, and besides `cluster=NAME`, a profile slurm/NAME.yaml, whose values
`cluster.time=2:00:00` and the like change; `dry=true` writes all and submits nothing. It returns at once. In
runs/_sweeps/NAME:

    code/              src and configs as they were: later edits do not reach runs that wait in the queue
    configs/0003.yaml  the run of array task 3, resolved
    sbatch.sh          what was submitted; sbatch-1.sh and so on: more arrays, where SLURM allows fewer tasks in one
    logs/3.out         of task 3, over all its restarts
    jobs.txt           SLURM's job ids, one for each array, and the run of its task 0, if that is not the first

The name is of the experiment and a hash of code and configs. The same command again submits what is not done and not in
the queue; `python -m subcloning.status` shows where each run is.
"""

import argparse
import hashlib
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from . import resolvers  # noqa: F401  (for what the configs look up)
from .data.images.augment import refuse_idle_recipe
from .errors import SubcloningError
from .files import ROOT, atomic, locked
from .training.record import SNAPSHOT, revision, write_json
from .training.slurm import SWEEPS, array_size, busy_folders, ranges, sbatch, script


def expand(overrides: list[str]) -> list[DictConfig]:
    """The resolved config of each run of a sweep: all combinations of listed values, the experiment's own included."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        given = _values(overrides)
        first = compose("train", overrides=[values[0] for values in given.values()], return_hydra_config=True)
        # The experiment's own sweep, as far as nothing given replaces it.
        params = first.hydra.sweeper.get("params") or {}
        own = _values([f"{key}={value}" for key, value in params.items() if key not in given])
        return [resolved(compose("train", overrides=list(run))) for run in product(*given.values(), *own.values())]


def _values(overrides: list[str]) -> dict[str, list[str]]:
    """What is overridden -> overrides of single runs: seed=0,1 stands for seed=0 and seed=1."""
    found = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.get_key_element()
        swept = [f"{key}={value}" for value in override.sweep_string_iterator()] if override.is_sweep_override() else []
        found[key.lstrip("+")] = swept or [str(override.input_line)]
    return found


def resolved(cfg: DictConfig) -> DictConfig:
    """`cfg` with all interpolations replaced by their values."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return OmegaConf.create(values)


def profile(name: str, overrides: list[str]) -> DictConfig:
    """The cluster's profile slurm/NAME.yaml, on top of slurm/base.yaml."""
    if not (ROOT / "slurm" / f"{name}.yaml").exists():
        known = sorted(file.stem for file in (ROOT / "slurm").glob("*.yaml"))
        raise SubcloningError(
            f"cluster={name}: there is no slurm/{name}.yaml, only {', '.join(known)}: see slurm/README.md"
        )
    with initialize_config_dir(str(ROOT / "slurm"), version_base="1.3"):
        return resolved(compose(name, overrides=overrides))


def snapshot(folder: Path) -> None:
    """Copy src and configs."""
    with atomic(folder) as temporary:
        for part in ("src", "configs"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, temporary / part, ignore=ignored)
        write_json(temporary / SNAPSHOT, revision())


def digest(runs: list[DictConfig]) -> str:
    """Hash of code and runs."""
    found = hashlib.sha256()
    for part in ("src", "configs"):
        for file in sorted((ROOT / part).rglob("*.*")):
            if file.suffix in (".py", ".yaml"):
                found.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    for run in runs:
        found.update(OmegaConf.to_yaml(run).encode())
    return found.hexdigest()[:8]


def submit(overrides: list[str], cluster: DictConfig, *, dry: bool = False) -> Path:
    """Submit the runs of a sweep that are neither done nor in the queue; return its folder."""
    for name in ("RUNS", "CORPORA", "IMAGES"):  # absolute: jobs may start elsewhere
        os.environ[f"SUBCLONING_{name}"] = str(Path(os.environ.get(f"SUBCLONING_{name}", name.lower())).absolute())
    runs = expand(overrides)
    for run in runs:
        refuse_idle_recipe(run)
    folders = [run.run_dir for run in runs]
    if same := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise SubcloningError(
            f"several runs have the folder {same[0]}, whose name does not say what they differ in: submit them under "
            "several names (name=...)"
        )
    sweeps = Path(runs[0].runs).absolute() / SWEEPS
    folder = sweeps / f"{runs[0].name}-{digest(runs)}"
    with locked(sweeps.with_suffix(".lock")):  # two submissions at once would both find that nothing is in the queue
        _submit(folder, runs, cluster, dry)
    return folder


def _submit(folder: Path, runs: list[DictConfig], cluster: DictConfig, dry: bool) -> None:
    _prepare(folder, runs)
    running = busy_folders(folder.parent)
    # A run that is done may be in the queue for a while yet.
    done = [task for task, run in enumerate(runs) if (Path(run.run_dir) / "summary.json").exists()]
    busy = [task for task, run in enumerate(runs) if run.run_dir in running and task not in done]
    tasks = [task for task in range(len(runs)) if task not in busy and task not in done]
    print(f"{folder}: {len(runs)} runs, {len(done)} done, {len(busy)} in the queue, {len(tasks)} to submit")
    size = array_size()
    arrays: dict[int, list[int]] = {}  # number of the array -> its runs
    for task in tasks:
        arrays.setdefault(task // size if size else 0, []).append(task)
    after: list[str] = []
    for part, array in arrays.items():
        file = folder / (f"sbatch-{part}.sh" if part else "sbatch.sh")
        with atomic(file) as temporary:
            temporary.write_text(script(folder, runs, array, cluster, size))
        if dry:
            print(f"not submitted: {file}")
            continue
        job = sbatch(file, *after)
        with (folder / "jobs.txt").open("a") as jobs:
            jobs.write(f"{job} {part * (size or 0)}\n" if part else f"{job}\n")
        print(f"submitted job {job}: runs {ranges(array)}")
        # One array after the other, so that together they run as few at a time as one would.
        after = [f"--dependency=afterany:{job}"]


def _prepare(folder: Path, runs: list[DictConfig]) -> None:
    """Write down the code and the configs that the jobs will read."""
    for part in ("configs", "logs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if not (folder / "code").exists():
        snapshot(folder / "code")
    # Hydra itself leaves nothing behind: the run's folder has it all.
    hydra = {
        "defaults": ["_self_", {"override hydra/job_logging": "stdout"}],
        "hydra": {"run": {"dir": "."}, "output_subdir": None},
    }
    for task, run in enumerate(runs):
        for key in ("runs", "run_dir", "corpora", "images"):
            run[key] = str(Path(run[key]).absolute())
        with atomic(folder / "configs" / f"{task:04}.yaml") as temporary:
            OmegaConf.save(OmegaConf.merge(hydra, run), temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="+", help="as for subcloning.train -m, and cluster=NAME, cluster.KEY=VALUE, dry=true"
    )
    words = parser.parse_args().overrides
    own = [word for word in words if word.startswith(("cluster", "dry="))]
    name = next((word.partition("=")[2] for word in own if word.startswith("cluster=")), "base")
    changes = [word.removeprefix("cluster.") for word in own if word.startswith("cluster.")]
    dry = yaml.safe_load(next((word.removeprefix("dry=") for word in own if word.startswith("dry=")), "false"))
    if not isinstance(dry, bool):
        raise SubcloningError(f"dry={dry}: expected true or false")
    submit([word for word in words if word not in own], profile(name, changes), dry=dry)


if __name__ == "__main__":
    main()
