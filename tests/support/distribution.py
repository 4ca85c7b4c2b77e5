"""How pytest-xdist hands out the tests: the slow ones first and one by one, all others file by file."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.conftest import ROOT


class SlowFirst(LoadScopeScheduling):
    """No worker is left with a slow test at the end, and fixtures of a module are made once.

    The workers have sorted their tests (`pytest_collection_modifyitems` in tests/conftest.py): that order is kept here.
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
