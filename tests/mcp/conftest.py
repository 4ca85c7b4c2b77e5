"""Fixtures: the command line in an empty folder, a sandbox exchange, and a store."""

from __future__ import annotations

from tests.cli.conftest import tapewire
from tests.live.conftest import database, hasty_start, quiet_log, sandbox

__all__ = ["database", "hasty_start", "quiet_log", "sandbox", "tapewire"]
