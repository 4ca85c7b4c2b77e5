"""Runs consecutive seeds in a process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import structlog

from tests.simulation.simulation_harness import SeedOutcome, simulate
from tests.support import mutants

_SILENT: Final = 50  # structlog's level critical


def prepare_process(mutant: str) -> None:
    """Silence the product's log and apply the mutant, once per process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_SILENT))
    if mutant:
        mutants.apply(mutant)


def run_seeds(first: int, count: int, keep: int, sleeves: bool = False) -> list[SeedOutcome]:
    """Run consecutive seeds up to the first failure."""
    # Use a memory file system if available: the real disk is not under test
    memory = Path("/dev/shm")
    outcomes = []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(
            prefix="tapewire-", dir=memory if os.access(memory, os.W_OK) else None
        ) as folder:
            outcomes.append(simulate(seed, Path(folder), keep=keep, sleeves=sleeves))
        if outcomes[-1].failure:
            break
    return outcomes
