"""One small file per model family. Importing this package makes them all known; none imports its model's library."""

from . import gpt2, vit

__all__ = ["gpt2", "vit"]
