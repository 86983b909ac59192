"""English that comes with every Python: the reference of the language that `help()` shows. `text.py FOLDER`

FOLDER/train and FOLDER/validation get one file for each topic; every tenth goes to validation.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

from subcloning.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    with atomic(parser.parse_args().folder) as folder:
        for number, (name, text) in enumerate(sorted(topics.items())):
            split = folder / ("train" if number % 10 else "validation")
            split.mkdir(parents=True, exist_ok=True)
            (split / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
