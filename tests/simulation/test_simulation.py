"""Some seeds of `make simulate`, and proof that it detects defects."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.effort import usual

SEEDS = usual(3, long=8)
QUICKLY_DETECTED = (
    "bars-come-twice",
    "headlines-pass-twice",
    "limits-are-twice-as-wide",
    "orders-leave-before-the-commit",
    "cancels-are-kept-back",
    "lost-commits-are-not-noticed",
    "orders-leave-before-the-disk-has-the-commit",
)
"""Mutants that a few seeds detect and that tests/crash doesn't try. docs/proof.md tells how to try all."""


BEGIN_AT = {
    "orders-leave-before-the-commit": 7,
    "orders-leave-before-the-disk-has-the-commit": 14,
}
"""The first seeds that find these; the first few seeds find the others. Every search goes on for 80 seeds."""


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", "--processes", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_seeds_have_no_violations() -> None:
    done = simulation("--seeds", str(SEEDS), "--first", "1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{SEEDS} seeds held, 0 broke"


@pytest.mark.slow
def test_seeds_with_several_strategies_in_one_account_have_no_violations() -> None:
    done = simulation("--seeds", str(SEEDS), "--first", "20", "--sleeves")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{SEEDS} seeds held, 0 broke"


@pytest.mark.slow
def test_seed_is_reproducible() -> None:
    first, second = (
        simulation("--seeds", "1", "--first", "7", "--trace").stdout.splitlines() for _ in range(2)
    )
    assert len(first) > 50
    assert first[:-2] == second[:-2]  # except the duration


def test_every_mutant_takes_the_arguments_of_what_it_replaces() -> None:
    """Or it is detected because it fails by itself, and proves nothing."""
    program = "from tests.support import mutants\nfor name in mutants.MUTANTS: mutants.apply(name)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mutant", QUICKLY_DETECTED)
def test_mutant_is_detected(mutant: str) -> None:
    done = simulation("--seeds", "80", "--first", str(BEGIN_AT.get(mutant, 0)), "--mutant", mutant)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"--mutant {mutant}" in done.stdout
    assert " broke: Violation: " in done.stdout  # not because the mutant itself fails
