"""Scheduling of pytest-xdist: slow tests first and one by one, all others file by file."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.conftest import ROOT


class SlowFirst(LoadScopeScheduling):
    """Schedules slow tests first, and keeps the other tests of a file together, which share its fixtures.

    The workers have sorted their tests (`pytest_collection_modifyitems` in tests/conftest.py); this order is
    kept.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        """The file, or the test itself if its file has slow tests."""
        file = nodeid.partition("::")[0]
        return nodeid if _has_slow_tests(file) else file


@cache
def _has_slow_tests(file: str) -> bool:
    return "pytest.mark.slow" in (ROOT / file).read_text(encoding="utf-8")
