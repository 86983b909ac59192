"""data=packages: installed packages at the lock's versions, split by package, without copies."""

import hashlib

import pandas as pd
import pytest

from subcloning import SubcloningError
from subcloning.data.text.corpus import Corpus
from subcloning.data.text.packages import Packages
from subcloning.data.text.sources import by_hash
from subcloning.data.text.tokenizer import TrainedBPE

NAMES = [f"package-{n}" for n in range(12)]
HELD_OUT = [name for name in NAMES if by_hash(name, 0.3) == "validation"]
TRAINED = [name for name in NAMES if name not in HELD_OUT]


def lines(key, count=10):
    return [f"def function_{key}_{n}(argument): return {n}" for n in range(count)]


@pytest.fixture
def site(tmp_path):
    """site(name, {file: lines}): a package as an installer leaves it, in the folder that it returns."""
    folder = tmp_path / "site"

    def install(name, files, version="1.0"):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("\n".join(text))
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return folder

    return install


@pytest.fixture
def source(site, tmp_path):
    for name in NAMES:
        folder = site(name, {f"{name}/a.py": lines(name), f"{name}/tests/b.py": lines("b"), f"{name}/c.txt": ["text"]})
    lock = tmp_path / "requirements.lock"
    lock.write_text("".join(f"{name}==1.0  # pinned\n" for name in NAMES))
    return lambda: Packages(str(lock), validation=0.3, path=[str(folder)])


def files(source):
    return {file.parent.name + "/" + file.name: unit.split for unit in source.units for file in unit.files}


def test_whole_packages_are_set_aside_and_tests_are_left_out(source):
    assert HELD_OUT
    assert TRAINED
    found = files(source())
    assert found == {f"{name}/a.py": "validation" if name in HELD_OUT else "train" for name in NAMES}
    assert [unit.split for unit in source().units] == ["validation"] * len(HELD_OUT) + ["train"] * len(TRAINED)
    text = {piece.text: piece.split for unit in source().units for piece in source().read(unit)}
    assert text["\n".join(lines(TRAINED[0]))] == "train"


def test_copies_are_left_out_of_training_rather_than_of_validation(source, site):
    """More than half of its lines; white space does not count, nor do short lines."""
    first, own = lines(HELD_OUT[0]), lines("other")
    mostly = [f"    {line}" for line in first[:6]] + own[:5] + ["pass"] * 20
    partly = first[:5] + lines("more")[:5]
    folder = site("extra", {"extra/mostly.py": mostly, "extra/partly.py": partly, "extra/again.py": partly[::-1]})
    (folder.parent / "requirements.lock").open("a").write("extra==1.0\n")
    assert by_hash("extra", 0.3) == "train"
    (extra,) = (unit for unit in source().units if unit.name == "extra")
    assert [file.name for file in extra.files] == ["again.py"]  # the first by name of what is the same
    assert extra.copies == 2
    total = len(HELD_OUT) * 10
    assert source().overlap == {"lines": round(5 / total, 4), "three_lines": 0.0}
    assert source().contents["files_left_out"] == 2


def test_runs_of_lines_that_are_left_are_reported(source, site):
    name = HELD_OUT[0]
    folder = site("extra", {"extra/a.py": [*lines(name)[2:6], *lines("own")]})
    (folder.parent / "requirements.lock").open("a").write("extra==1.0\n")
    runs = len(HELD_OUT) * 8
    assert source().overlap == {"lines": round(4 / (len(HELD_OUT) * 10), 4), "three_lines": round(2 / runs, 4)}


def test_the_table_has_versions_and_hashes(source, tmp_path):
    table = source().table().set_index("name")
    assert table.loc[NAMES[3], ["version", "files", "copies"]].tolist() == ["1.0", 1, 0]
    assert table.loc[NAMES[3], "sha256"] == hashlib.sha256("\n".join(lines(NAMES[3])).encode()).hexdigest()


def test_a_corpus_of_packages(source, tmp_path, site):
    made = Corpus(tmp_path / "corpus", source(), TrainedBPE(280), shard_mib=1)
    manifest = made.prepare(1)
    assert manifest["contents"]["packages"] == dict.fromkeys(HELD_OUT + TRAINED, "1.0")
    assert manifest["splits"]["validation"]["documents"] == len(HELD_OUT)
    (tmp_path / "site" / TRAINED[0] / "a.py").write_text("changed = 'since then, which is another text'")
    with pytest.raises(SubcloningError, match="holds another corpus"):
        Corpus(tmp_path / "corpus", source(), TrainedBPE(280), shard_mib=1).open()


def test_what_is_not_as_the_lock_says_is_refused(source, site, tmp_path):
    folder = site("extra", {"extra/a.py": lines("extra")}, version="2.0")
    (folder.parent / "requirements.lock").open("a").write("extra==1.0 ; python_version < '3'\n")
    with pytest.raises(SubcloningError, match=r"extra 2.0 is installed, requirements.lock has 1.0: install its"):
        source().units  # noqa: B018
    assert source().paths == {}
    (folder.parent / "requirements.lock").open("a").write("extra==2.0 ; python_version >= '3'\n")
    assert "extra/a.py" in files(source())
    with pytest.raises(SubcloningError, match=r"there is no .*other.lock, which a checkout has"):
        Packages(str(tmp_path / "other.lock")).units  # noqa: B018
    (tmp_path / "empty.lock").write_text("")
    with pytest.raises(SubcloningError, match=r"none of the packages in .*empty.lock is installed"):
        Packages(str(tmp_path / "empty.lock")).units  # noqa: B018
    with pytest.raises(SubcloningError, match=r"packages are of \['train'\]: give corpus.source.validation"):
        Packages(str(folder.parent / "requirements.lock"), validation=0.0, path=[str(folder)]).contents  # noqa: B018


def test_this_environments_own(tmp_path):
    """Cheap parts alone: all of it is 200 MB."""
    try:
        found = {package.name: package for package in Packages().candidates}
    except SubcloningError as error:  # as in `make test-lowest`
        pytest.skip(str(error))
    assert found["scikit-learn"].split == "validation"
    assert found["torch"].split == found["transformers"].split == "train"
    assert "subcloning" not in found
    assert pd.Series([len(package.files) for package in found.values()]).sum() > 5_000
