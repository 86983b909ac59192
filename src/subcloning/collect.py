"""Collect a study's finished runs into experiments/NAME: `python -m subcloning.collect digits`.

Writes runs.csv, the curves of all runs in one long table, and runs_provenance.json, which holds what is common to all
runs (config, code revision, packages, hardware) once, and what differs for each. Figures and tables are made from these
only.
"""

import argparse
import json
import os
from pathlib import Path

import pandas as pd
import yaml

from .axes import SubcloningError
from .files import atomic


def collect(source: Path, target: Path, stem: str = "runs") -> pd.DataFrame:
    """Read every finished run below `source`; write `target`/STEM.csv and STEM_provenance.json; return the curves."""
    folders = sorted(file.parent for file in source.glob("**/summary.json"))
    if not folders:
        raise SubcloningError(f"no finished run below {source}: run the experiment first (configs/experiment)")
    curves, records = [], []
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        init, setting = config["init"]["name"], {key: config["optim"][key] for key in ("lr", "weight_decay")}
        if (config.get("tuned") or {}).get(init, setting) != setting:
            print(f"left out, not at its tuned setting: {folder}")
            continue
        keys = {"init": init, **setting, "seed": config["seed"]}
        curves.append(pd.read_csv(folder / "metrics.csv").assign(**keys))
        record = {"config": config, "provenance": json.loads((folder / "provenance.json").read_text())}
        records.append(record | {"seconds": json.loads((folder / "summary.json").read_text())["seconds"]})
    models = {(record["config"]["parent"]["name"], record["config"]["destination"]["name"]) for record in records}
    if len(models) != 1:
        raise SubcloningError(
            f"{source} holds runs of several parents and destinations, {sorted(models)}: give each its name="
        )
    table = pd.concat(curves).sort_values([*keys, "step"])
    # Speed belongs to the machine and its other load: it stays in each run's own metrics.csv.
    table = table[[*keys, *(column for column in table if column not in (*keys, "tokens_per_second", "mfu"))]]
    flat = pd.json_normalize(records).map(str)
    common = [column for column in flat if flat[column].nunique() == 1]
    provenance = {"common": flat.loc[0, common].to_dict(), "runs": flat.drop(columns=common).to_dict("records")}
    with atomic(target / f"{stem}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    with atomic(target / f"{stem}_provenance.json") as temporary:
        temporary.write_text(json.dumps(provenance, indent=1) + "\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="name of the experiment whose runs to collect, such as digits")
    parser.add_argument("--into", type=Path, help="folder to write to (default: experiments/EXPERIMENT)")
    parser.add_argument("--stem", default="runs", help="STEM.csv and STEM_provenance.json are written (default: runs)")
    args = parser.parse_args()
    source = Path(os.environ.get("SUBCLONING_RUNS", "runs")) / args.experiment
    table = collect(source, args.into or Path("experiments") / args.experiment, args.stem)
    print(f"collected {table.groupby(['init', 'lr', 'weight_decay', 'seed']).ngroups} runs from {source}")


if __name__ == "__main__":
    main()
