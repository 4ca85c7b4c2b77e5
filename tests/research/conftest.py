"""The real command line in an empty folder, and databases of both kinds, for the verbs of research."""

from __future__ import annotations

from tests.cli.conftest import tapewire
from tests.store.conftest import database_url, postgres_cluster

__all__ = ["database_url", "postgres_cluster", "tapewire"]
