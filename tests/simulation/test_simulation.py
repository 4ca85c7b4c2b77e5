"""A share of `make simulate`, and proof that it would notice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

CAUGHT_SOON = (
    "journal-lags-behind", "bars-come-twice", "headlines-pass-twice", "limits-are-twice-as-wide", "orders-leave-before-the-commit",
    "missed-executions-are-not-asked", "cancels-are-kept-back", "doubts-are-sent-under-a-new-id",
    "lost-commits-are-not-noticed", "orders-leave-before-the-disk-has-the-commit",
)  # fmt: skip
"""Faults that a few seeds find; all of them are tried by hand, see docs/proof.md."""


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", "--processes", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_seeds_hold() -> None:
    done = simulation("--seeds", "20", "--first", "1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "20 seeds held, 0 broke"


def test_a_seed_does_the_same_again() -> None:
    first, second = (
        simulation("--seeds", "1", "--first", "7", "--trace").stdout.splitlines() for _ in range(2)
    )
    assert len(first) > 50
    assert first[:-2] == second[:-2]  # all but how long it took


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CAUGHT_SOON)
def test_a_product_with_a_fault_breaks_a_seed(mutant: str) -> None:
    done = simulation("--seeds", "80", "--mutant", mutant)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"--mutant {mutant}" in done.stdout
