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
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from . import resolvers  # noqa: F401  (for what the configs look up)
from .data.images.augment import refuse_idle_recipe
from .errors import SubcloningError
from .files import ROOT, atomic, locked
from .training.record import SNAPSHOT, provenance, write_json

SWEEPS = "_sweeps"


def expand(overrides: list[str]) -> list[DictConfig]:
    """The resolved config of each run of a sweep: all combinations of listed values, the experiment's own included."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(overrides)
        given = {override.key_or_group for override in parsed}
        # The experiment's own sweep, as far as nothing given replaces it.
        plain = [_first(override) if override.is_sweep_override() else override.input_line for override in parsed]
        params = compose("train", overrides=plain, return_hydra_config=True).hydra.sweeper.get("params") or {}
        own = [f"{key}={value}" for key, value in params.items() if key not in given]
        jobs = BasicSweeper.split_arguments(parser.parse_overrides([*overrides, *own]), max_batch_size=None)[0]
        return [resolved(compose("train", overrides=list(job))) for job in jobs]


def _first(sweep: Override) -> str:
    return f"{sweep.get_key_element()}={next(sweep.sweep_string_iterator())}"


def resolved(cfg: DictConfig) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


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
        write_json(temporary / SNAPSHOT, {key: provenance({})[key] for key in ("revision", "modified")})


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


def script(folder: Path, runs: list[DictConfig], tasks: list[int], cluster: DictConfig, size: int | None = None) -> str:
    """The sbatch file for the runs `tasks`, as one array.

    size: a power of ten, if they are of those runs whose numbers agree but for as many last digits: `size` * n and on.
    The array counts these digits alone.
    """
    part = tasks[0] // size if size else 0
    first = part * (size or 0)
    (nodes, devices, accelerator), *others = {
        (run.trainer.num_nodes, run.trainer.devices, run.trainer.accelerator) for run in runs
    }
    if others:
        raise SubcloningError("all runs of a sweep need the same trainer.num_nodes, devices and accelerator")
    if not isinstance(devices, int) or accelerator == "auto":
        raise SubcloningError(
            f"trainer.devices={devices} and accelerator={accelerator}: say what a job needs of each node, such as "
            "trainer=gpu, trainer=gpu_8 or trainer=cpu"
        )
    log = f"{part}%{len(str(size)) - 1}a.out" if part else "%a.out"  # the run's number: %3a has three digits
    options = {
        "job-name": runs[0].name,
        "array": f"{ranges([task - first for task in tasks])}%{cluster.parallel}",
        "nodes": nodes,
        "ntasks-per-node": devices,
        "gpus-per-node": devices if accelerator == "gpu" else None,
        "cpus-per-task": cluster.cpus_per_task,
        **{key: cluster[key] for key in ("time", "partition", "account", "qos", "constraint", "mem")},
        "signal": f"USR1@{cluster.grace}",  # to the tasks, which save, and then requeue the job
        "output": str(folder / "logs").replace("%", "%%") + f"/{log}",
    }
    lines = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append", *(f"#SBATCH {line}" for line in cluster.sbatch)]
    container = f"--container-image={shlex.quote(cluster.container)} " if cluster.container else ""
    head = f"#!/usr/bin/env bash\n# {runs[0].name}: {len(tasks)} of {len(runs)} runs, by python -m subcloning.submit\n"
    return head + "\n".join(
        [
            *lines,
            "set -euo pipefail",
            *cluster.setup,
            f"export PYTHONPATH={shlex.quote(str(folder / 'code' / 'src'))}",
            f"config=$(printf %04d $(({first} + SLURM_ARRAY_TASK_ID)))",
            f"export SRUN_CPUS_PER_TASK={cluster.cpus_per_task}  # srun does not take it over by itself",
            f"srun --kill-on-bad-exit=1 {container}{cluster.python} -m subcloning.train "
            f'--config-dir {shlex.quote(str(folder / "configs"))} --config-name "$config" || code=$?',
            "# Killed from outside, as for want of memory: start again, but not for ever.",
            "if [[ ${code:-0} == 137 && ${SLURM_RESTART_COUNT:-0} -lt 5 ]]; then",
            '    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
            "fi",
            'exit "${code:-0}"',
            "",
        ]
    )


def ranges(tasks: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and task == parts[-1][-1] + 1:
            parts[-1].append(task)
        else:
            parts.append([task])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def queued() -> dict[tuple[str, int], str]:
    """(job, array task) -> SLURM's state, of all of the user's tasks that wait or run. Empty without a SLURM."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F %K %T"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return {}
    except subprocess.CalledProcessError as error:
        raise SubcloningError(f"squeue does not answer ({error.stderr.strip()}): try again") from error
    rows = [line.split() for line in found.stdout.splitlines()]
    return {(job, int(task)): state for job, task, state in rows if task.isdigit()}


def in_queue(folder: Path, states: dict[tuple[str, int], str]) -> dict[int, str]:
    """Number of the run -> state, of the sweep in `folder`."""
    lines = (folder / "jobs.txt").read_text().splitlines() if (folder / "jobs.txt").exists() else []
    first = {job: int(rest[0]) if rest else 0 for job, *rest in map(str.split, lines)}
    return {first[job] + task: state for (job, task), state in states.items() if job in first}


def array_size() -> int | None:
    """How many runs one array can have, rounded down to a power of ten; None where no SLURM says it."""
    try:
        found = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    limit = re.search(r"^MaxArraySize\s*=\s*(\d{2,})", found, re.MULTILINE)
    return 10 ** (len(limit[1]) - 1) if limit else None


def busy_folders(sweeps: Path) -> set[str]:
    """Folders of the runs, of whatever sweep, that wait or run: no second job may write there."""
    states = queued()
    return {
        OmegaConf.load(folder / "configs" / f"{task:04}.yaml").run_dir
        for folder in sweeps.glob("*-*")
        for task in in_queue(folder, states)
    }


def submit(overrides: list[str], cluster: DictConfig, *, dry: bool = False) -> Path:
    """Submit the runs of a sweep that are neither done nor in the queue; return its folder."""
    for name in ("RUNS", "CORPORA", "IMAGES"):  # jobs may start elsewhere
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
    for part in ("configs", "logs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if not (folder / "code").exists():
        snapshot(folder / "code")
    for task, run in enumerate(runs):
        for key in ("runs", "run_dir", "corpora", "images"):
            run[key] = str(Path(run[key]).absolute())
        # Hydra itself leaves nothing behind: the run's folder has it all.
        own = {"defaults": ["_self_", {"override hydra/job_logging": "stdout"}]}
        own["hydra"] = {"run": {"dir": "."}, "output_subdir": None}
        with atomic(folder / "configs" / f"{task:04}.yaml") as temporary:
            OmegaConf.save(OmegaConf.merge(own, run), temporary)
    running = busy_folders(folder.parent)
    # A run that is done may be in the queue for a while yet.
    done = [task for task, run in enumerate(runs) if (Path(run.run_dir) / "summary.json").exists()]
    busy = [task for task, run in enumerate(runs) if run.run_dir in running and task not in done]
    tasks = [task for task in range(len(runs)) if task not in busy and task not in done]
    print(f"{folder}: {len(runs)} runs, {len(done)} done, {len(busy)} in the queue, {len(tasks)} to submit")
    size = array_size()
    arrays: dict[int, list[int]] = {}
    for task in tasks:
        arrays.setdefault(task // size if size else 0, []).append(task)
    before = None
    for part, array in arrays.items():
        file = folder / (f"sbatch-{part}.sh" if part else "sbatch.sh")
        with atomic(file) as temporary:
            temporary.write_text(script(folder, runs, array, cluster, size))
        if dry:
            print(f"not submitted: {file}")
            continue
        # One array after the other, so that together they run as few at a time as one would.
        job = _sbatch(file, *([f"--dependency=afterany:{before}"] if before else []))
        with (folder / "jobs.txt").open("a") as jobs:
            jobs.write(f"{job} {part * size}\n" if part else f"{job}\n")
        print(f"submitted job {job}: runs {ranges(array)}")
        before = job


def _sbatch(file: Path, *options: str) -> str:
    """The job's id."""
    try:
        found = subprocess.run(["sbatch", "--parsable", *options, file], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise SubcloningError("there is no sbatch here: submit on a login node, or give dry=true") from error
    except subprocess.CalledProcessError as error:
        raise SubcloningError(f"sbatch refused {file}: {error.stderr.strip()}") from error
    return found.stdout.strip().split(";")[0]


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
