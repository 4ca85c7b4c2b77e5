"""Fixtures shared by all tests, and how the suite uses the machine."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.effort import limit_examples

ROOT = Path(__file__).resolve().parent.parent

# The suite starts hundreds of interpreters; without cached bytecode each compiles the program again
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False

# Libraries start a thread for each core in every process, which for models this small only compete with the
# other workers
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# bitsandbytes compiles functions for the CPU while it is imported, which loads torch's compiler for a second
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    """Undo what a test leaves in the process: modules of its temporary folder, and a log that writes to its
    captured output.
    """
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "/pytest-of-" in file:
            del sys.modules[name]
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the checkout (`../shared`), or skip where it isn't there."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the real data of ../shared, which is not beside this checkout")
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More workers than cores: tests of the live agent mostly wait for sockets and timers."""
    cores = len(os.sched_getaffinity(0))
    return min(2 * cores, cores + 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out the slow tests first, unless another way is asked for with --dist."""
    if config.getoption("dist") != "load":
        return None
    from tests.support.distribution import SlowFirst

    return SlowFirst(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Limit the examples of properties. Collect no garbage while a worker imports the test modules: nothing
    of them becomes garbage.
    """
    limit_examples()
    if hasattr(config, "workerinput"):
        gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slow tests first, where several workers share them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later garbage collection. Cache no bytecode of what tests
    write: a strategy that a test edits within a second, at equal length, would be taken from the cache as it
    was. Make new stores without running the migrations each time, except in tests/store.
    """
    if (store := sys.modules.get("agent.store.database")) is not None:
        from tests.support.new_schema import make_tables

        vars(store)["migrate"] = make_tables
    sys.dont_write_bytecode = True
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 50, 100)  # a test makes many objects and little garbage
