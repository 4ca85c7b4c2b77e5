"""Libraries that only some tests compare with: imported when they are first used, since every worker imports every test module."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """The module called `name`, imported as soon as something in it is wanted."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
