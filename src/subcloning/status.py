"""Where the runs of submitted sweeps stand: `python -m subcloning.status [PART OF A SWEEP'S NAME]`."""

import argparse
import json
import os
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from .training.slurm import SWEEPS, in_queue, queued


def status(folder: Path) -> pd.DataFrame:
    """One row per run of the sweep in `folder`: task, run, state, its last metrics, and its log.

    state: done; failed (it began, is not in the queue, and has no summary); not submitted; or SLURM's own word.
    """
    busy, rows = in_queue(folder, queued()), []
    for file in sorted((folder / "configs").glob("*.yaml")):
        run, task = OmegaConf.load(file), int(file.stem)
        log = folder / "logs" / f"{task}.out"
        if (Path(run.run_dir) / "summary.json").exists():
            state = "done"
        elif task in busy:
            state = busy[task].lower()
        else:
            state = "failed" if log.exists() else "not submitted"
        rows.append({"task": task, "run": run.run, "state": state, **_metrics(Path(run.run_dir)), "log": log})
    return pd.DataFrame(rows)


def _metrics(run_dir: Path) -> dict:
    """Of the last validation: how far the run is, and its validation metrics."""
    file = run_dir / "metrics.csv"
    if (run_dir / "summary.json").exists():
        last = json.loads((run_dir / "summary.json").read_text())
    elif file.exists():
        last = pd.read_csv(file).iloc[-1].to_dict()
    else:
        return {}
    return {key: value for key, value in last.items() if key in ("epoch", "tokens") or key.startswith("val_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="default: all sweeps")
    name = parser.parse_args().name
    root = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / SWEEPS
    for folder in sorted(root.glob(f"*{name}*")):
        table = status(folder)
        counts = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
        print(f"{folder}: {counts}\n{table.to_string(index=False, na_rep='', float_format='%.4g')}\n")


if __name__ == "__main__":
    main()
