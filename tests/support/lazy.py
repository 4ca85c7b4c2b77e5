"""Optional reference libraries, imported on first use, since every worker imports every test module."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Proxy that imports the module `name` on the first attribute access."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # While pytest collects, it looks for `__wrapped__` and others in every name of a test module
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
