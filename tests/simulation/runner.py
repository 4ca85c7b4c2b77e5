"""Some seeds after one another, in whichever process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import structlog

from tests.simulation.world import Outcome, simulate
from tests.support import mutants

_SILENT: Final = 50  # structlog's level critical


def prepare(mutant: str) -> None:
    """In every process, once: the product says nothing, and has the fault that it shall have."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_SILENT))
    if mutant:
        mutants.apply(mutant)


def run_seeds(first: int, count: int, keep: int) -> list[Outcome]:
    """Consecutive seeds, up to the first that fails."""
    # In memory where the system has a file system there: the disk isn't what is looked at
    memory = Path("/dev/shm")
    outcomes = []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(
            prefix="tapewire-", dir=memory if os.access(memory, os.W_OK) else None
        ) as folder:
            outcomes.append(simulate(seed, Path(folder), keep=keep))
        if outcomes[-1].failure:
            break
    return outcomes
