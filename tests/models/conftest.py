"""What tests of models share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.tiny_model import write_tiny


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """The writer of tiny models."""
    return write_tiny
