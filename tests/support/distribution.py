"""Scheduling of pytest-xdist: slow tests first and one by one, all others file by file."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.conftest import ROOT


class SlowFirst(LoadScopeScheduling):
    """Schedules slow tests first, and keeps the other tests of a file together, which share its fixtures.
    Without the slow ones (`-m "not slow"`) that is every file.

    The workers have sorted their tests (`pytest_collection_modifyitems` in tests/conftest.py); this order is
    kept.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._runs_slow_tests: bool = config.option.markexpr != "not slow"

    def _split_scope(self, nodeid: str) -> str:
        """The file, or the test itself if its file has slow tests that run."""
        file = nodeid.partition("::")[0]
        return nodeid if self._runs_slow_tests and _has_slow_tests(file) else file


@cache
def _has_slow_tests(file: str) -> bool:
    return "pytest.mark.slow" in (ROOT / file).read_text(encoding="utf-8")
