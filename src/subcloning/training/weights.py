"""Which weights a parent has: told by their contents, not by where they lie."""

import hashlib
from pathlib import Path

from ..errors import SubcloningError

MIB = 2**20


def local(place: str) -> Path:
    """`place` as a path, where a parent's weights must be."""
    if not Path(place).exists():
        raise SubcloningError(
            f"the parent's weights {place} do not exist: train the parent first (see configs/experiment)"
        )
    return Path(place)


def contents(place: str) -> dict:
    """`sha256` of the weights in the file or folder `place`, of each file's size and up to 64 MiB of it, evenly spread:
    quick, however large the model is."""
    path, found = local(place), hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin")):
        size = file.stat().st_size
        found.update(f"{size} ".encode())
        with file.open("rb") as opened:
            for start in range(0, size, max(MIB, size // 63)):
                opened.seek(start)
                found.update(opened.read(MIB))
    return {"sha256": found.hexdigest()}


def hub_commit(repository: str, revision: str | None = None) -> str | None:
    """The commit of the Hub's `repository` that was downloaded for `revision`; None where the cache does not tell."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin", "config.json"):
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent.name
    return None
