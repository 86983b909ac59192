"""Count what the fault tests do: `python benchmarks/faults.py [REPORT.xml ...]`.

Without reports of `pytest -ojunit_family=xunit1 --junitxml=REPORT.xml` it runs the tests itself, which takes 11 minutes
and needs root on Debian, for SLURM. Writes faults.csv: for each test that interrupts runs, how often it did, and after
how many of the interruptions the run ended exactly as the undisturbed one, which is what those tests assert.
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


def counts(report: Path) -> list[dict]:
    rows = []
    for case in ElementTree.parse(report).findall(".//testcase"):
        properties = {item.get("name"): int(item.get("value")) for item in case.findall(".//property")}
        failed = bool(case.findall("failure") + case.findall("error"))
        if properties or (failed and any(test.stem in case.get("classname") for test in TESTS)):
            rows.append({"test": case.get("name"), **properties, "exact": 0 if failed else properties["interruptions"]})
    return rows


def run_tests(report: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-ojunit_family=xunit1", f"--junitxml={report}", *TESTS]
    subprocess.run(command, env={**os.environ, "SUBCLONING_TEST_SLURM": "1"}, check=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(argument) for argument in sys.argv[1:]] or [Path(folder) / "report.xml"]
        if not sys.argv[1:]:
            run_tests(reports[0])
        table = pd.DataFrame([row for report in reports for row in counts(report)])
    table.convert_dtypes().to_csv(HERE / "faults.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
