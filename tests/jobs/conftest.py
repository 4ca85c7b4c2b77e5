"""Fixtures: the command line in an empty folder, a sandbox exchange, and a quiet log."""

from __future__ import annotations

from tests.cli.conftest import tapewire
from tests.live.conftest import quiet_log, sandbox

__all__ = ["quiet_log", "sandbox", "tapewire"]
