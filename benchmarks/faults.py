"""Count what the fault tests do: `python benchmarks/faults.py`, which takes 12 minutes, needs root on Debian for SLURM.

Writes faults.csv: for each test that interrupts runs, how often it did, and how many of the resumed runs ended exactly
as the undisturbed one, which is what those tests assert.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
TESTS = [HERE.parent / "tests" / name for name in ("test_interruptions.py", "test_ranks.py", "slurm")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        env = {**os.environ, "SUBCLONING_TEST_SLURM": "1"}
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-ojunit_family=xunit1", f"--junitxml={report}", *TESTS],
            env=env,
            check=False,
        )
        cases = ElementTree.parse(report).findall(".//testcase")
    rows = []
    for case in cases:
        properties = {item.get("name"): int(item.get("value")) for item in case.findall(".//property")}
        failed = bool(case.findall("failure") + case.findall("error"))
        if properties or failed:
            exact = 0 if failed else properties["interruptions"]
            rows.append({"test": case.get("name"), **properties, "exact": exact})
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "faults.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
