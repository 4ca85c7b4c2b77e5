"""The real command line in an empty folder, for the verbs of research."""

from __future__ import annotations

from tests.cli.conftest import tapewire

__all__ = ["tapewire"]
