"""What SLURM is asked and given: its queue, its limits, and a sweep as a job array."""

import re
import shlex
import subprocess
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..errors import SubcloningError

SWEEPS = "_sweeps"  # the folder of all submitted sweeps, among the runs

SCRIPT = """\
#!/usr/bin/env bash
# {title}, by python -m subcloning.submit
{options}
set -euo pipefail
{setup}export PYTHONPATH={source}
config=$(printf %04d $(({first} + SLURM_ARRAY_TASK_ID)))
export SRUN_CPUS_PER_TASK={cpus}  # srun does not take it over by itself
srun --kill-on-bad-exit=1 {python} -m subcloning.train --config-dir {configs} --config-name "$config" || code=$?
# Killed from outside, as for want of memory: start again, but not for ever.
if [[ ${{code:-0}} == 137 && ${{SLURM_RESTART_COUNT:-0}} -lt 5 ]]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "${{code:-0}}"
"""


def script(folder: Path, runs: list[DictConfig], tasks: list[int], cluster: DictConfig, size: int | None = None) -> str:
    """The sbatch file for the runs `tasks` of the sweep in `folder`, as one array.

    size: a power of ten, if they are of those runs whose numbers agree but for as many last digits: `size` * n and on.
    The array counts these digits alone.
    """
    part = tasks[0] // size if size else 0
    first = part * (size or 0)
    log = f"{part}%{len(str(size)) - 1}a.out" if part else "%a.out"  # the run's number: %3a has three digits
    options = {
        "job-name": runs[0].name,
        "array": f"{ranges([task - first for task in tasks])}%{cluster.parallel}",
        **devices(runs),
        "cpus-per-task": cluster.cpus_per_task,
        **{key: cluster[key] for key in ("time", "partition", "account", "qos", "constraint", "mem")},
        "signal": f"USR1@{cluster.grace}",  # to the tasks, which save, and then requeue the job
        "output": str(folder / "logs").replace("%", "%%") + f"/{log}",
    }
    lines = [f"--{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    lines += ["--requeue", "--open-mode=append", *cluster.sbatch]
    container = f"--container-image={shlex.quote(cluster.container)} " if cluster.container else ""
    return SCRIPT.format(
        title=f"{runs[0].name}: {len(tasks)} of {len(runs)} runs",
        options="\n".join(f"#SBATCH {line}" for line in lines),
        setup="".join(f"{line}\n" for line in cluster.setup),
        source=shlex.quote(str(folder / "code" / "src")),
        first=first,
        cpus=cluster.cpus_per_task,
        python=container + cluster.python,
        configs=shlex.quote(str(folder / "configs")),
    )


def devices(runs: list[DictConfig]) -> dict[str, int | None]:
    """Options of sbatch that say what a job of any of these runs needs."""
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
    gpus = devices if accelerator == "gpu" else None
    return {"nodes": nodes, "ntasks-per-node": devices, "gpus-per-node": gpus}


def ranges(tasks: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and task == parts[-1][-1] + 1:
            parts[-1].append(task)
        else:
            parts.append([task])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def sbatch(file: Path, *options: str) -> str:
    """Submit a script; the job's id."""
    try:
        found = subprocess.run(["sbatch", "--parsable", *options, file], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise SubcloningError("there is no sbatch here: submit on a login node, or give dry=true") from error
    except subprocess.CalledProcessError as error:
        raise SubcloningError(f"sbatch refused {file}: {error.stderr.strip()}") from error
    return found.stdout.strip().split(";")[0]


def array_size() -> int | None:
    """How many runs one array can have, rounded down to a power of ten; None where no SLURM says it."""
    try:
        found = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    limit = re.search(r"^MaxArraySize\s*=\s*(\d{2,})", found, re.MULTILINE)
    return 10 ** (len(limit[1]) - 1) if limit else None


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
    """Number of the run -> state, of the sweep in `folder`; its jobs.txt has each array, and the run of its task 0."""
    lines = (folder / "jobs.txt").read_text().splitlines() if (folder / "jobs.txt").exists() else []
    first = {job: int(rest[0]) if rest else 0 for job, *rest in map(str.split, lines)}
    return {first[job] + task: state for (job, task), state in states.items() if job in first}


def busy_folders(sweeps: Path) -> set[str]:
    """Folders of the runs, of whatever sweep, that wait or run: no second job may write there."""
    states = queued()
    return {
        OmegaConf.load(folder / "configs" / f"{task:04}.yaml").run_dir
        for folder in sweeps.glob("*-*")
        for task in in_queue(folder, states)
    }
