"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.tiny_model import write_reader as write_reader_model
from tests.models.tiny_model import write_tiny


@pytest.fixture(scope="session")
def write_reader() -> Callable[..., Path]:
    """Return the function that writes a tiny model which reads single assets and the kind of news."""
    return write_reader_model


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """Return the function that writes a tiny model of whole headlines."""
    return write_tiny
