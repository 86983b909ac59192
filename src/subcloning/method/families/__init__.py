"""One small file per model family. Importing this package makes them all known; none imports its model's library."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
