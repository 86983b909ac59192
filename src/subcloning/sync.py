"""Send runs to W&B from their own files: `python -m subcloning.sync digits`. What was sent before is not sent again.

From config.yaml, plan.safetensors, metrics.csv and summary.json, so that a run that was interrupted, whose offline logs
are in pieces, is one W&B run with one curve, under the same id as `logger=wandb` gives it.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from .errors import SubcloningError
from .files import atomic
from .method.plan import Plan
from .training.record import CURVE, SYNCED, plan_table, read_json, wandb_id

Mode = Literal["online", "offline"]


def sync(folder: Path, mode: Mode = "online") -> int:
    """Send the run in `folder`; return how many new rows its curve had. mode: as for `wandb.init`."""
    import wandb

    config = yaml.safe_load((folder / "config.yaml").read_text())
    rows: list[dict[Any, Any]] = pd.read_csv(folder / "metrics.csv").to_dict("records")
    if config["logger"]["wandb"] and not config["logger"]["wandb"]["offline"]:
        return 0  # sent while it ran
    mark = folder / f"{SYNCED}{mode}.json"
    sent = read_json(mark) if mark.exists() else {"rows": 0, "summary": False}
    finished = (folder / "summary.json").exists()
    new = rows[sent["rows"] :]
    if not new and sent["summary"] == finished:
        return 0
    with wandb.init(
        project=(config["logger"]["wandb"] or {}).get("project", "subcloning"),
        id=wandb_id(folder, config["run"]),
        name=config["run"],
        config=config | {"provenance": read_json(folder / "provenance.json")},
        resume="allow",
        dir=folder,
        mode=mode,
    ) as run:
        if not sent["rows"] and (folder / "plan.safetensors").exists():
            run.log({"plan": plan_table(Plan.load(folder / "plan.safetensors"))}, step=0)
        for row in new:
            known = {str(key): value for key, value in row.items() if pd.notna(value)}
            run.log(known | {f"{CURVE}{key}": value for key, value in known.items()}, step=int(row["step"]))
        if finished:
            run.summary.update(read_json(folder / "summary.json"))
    with atomic(mark) as temporary:
        temporary.write_text(json.dumps({"rows": len(rows), "summary": finished}))
    return len(new)


def sync_table(experiment: str, file: Path, mode: Mode = "online") -> None:
    """Send a study's table, such as `experiments/digits/table.csv`, as a W&B run of its own."""
    import wandb

    name = f"{experiment}/table"
    with wandb.init(
        project="subcloning", id=name.replace("/", "--"), name=name, resume="allow", dir=file.parent, mode=mode
    ) as run:
        run.log({"table": wandb.Table(dataframe=pd.read_csv(file))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="", help="default: all")
    parser.add_argument("--offline", action="store_true", help="write W&B's files instead, for `wandb sync` elsewhere")
    parser.add_argument("--table", type=Path, help="the study's table too, such as experiments/digits/table.csv")
    args = parser.parse_args()
    mode: Mode = "offline" if args.offline else "online"
    root = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / args.experiment
    folders = sorted(file.parent for file in root.glob("**/metrics.csv"))
    if not folders:
        raise SubcloningError(f"no run below {root}: run the experiment first")
    for folder in folders:
        print(f"{folder}: {sync(folder, mode)} new rows")
    if args.table:
        sync_table(args.experiment, args.table, mode)


if __name__ == "__main__":
    main()
