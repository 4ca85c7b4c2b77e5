"""Some kills of `make crash`, and proof that it detects defects."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support import mutants

MARKET = ("--minutes", "100")  # a quarter of what `make crash` plays in each run
FOUND_SOON = {
    "journal-lags-behind": 2,
    "journal-is-not-folded": 1,
    "headlines-that-waited-are-forgotten": 2,
    "order-ids-begin-again": 3,
}
"""For each fault in the store a seed of which an early death shows it."""
FOUND_SOON_AT_A_VENUE = 5
"""The same, for the faults between two lives at a venue."""


def harness(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_killed_run_equals_the_uninterrupted_run() -> None:
    done = harness("tests.crash", "--kills", "8", "--seed", "2", *MARKET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "8 kills, 8 recovered, 0 lost"


@pytest.mark.slow
def test_killed_run_with_several_strategies_equals_the_uninterrupted_run() -> None:
    done = harness("tests.crash", "--sleeves", "--kills", "8", "--seed", "3", *MARKET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "8 kills, 8 recovered, 0 lost"


@pytest.mark.slow
@pytest.mark.parametrize("fault", mutants.names(mutants.IN_STORE))
def test_store_mutant_is_detected(fault: str) -> None:
    done = harness(
        "tests.crash", "--mutant", fault, "--kills", "50", "--seed", str(FOUND_SOON[fault]), *MARKET
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LOST run" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 1 lost")


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults", [(), ("--faults",), ("--faults", "--sleeves")], ids=["calm", "faulty", "sleeves"]
)
def test_killed_agent_agrees_with_the_exchange(faults: tuple[str, ...]) -> None:
    done = harness("tests.crash", "--testnet", *faults, "--kills", "6", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, traded, last = done.stdout.splitlines()
    assert last == "6 kills, 6 recovered, 0 lost"
    assert not traded.startswith("0 orders")


@pytest.mark.slow
@pytest.mark.parametrize("fault", mutants.names(mutants.BETWEEN_LIVES))
def test_gateway_mutant_is_detected(fault: str) -> None:
    done = harness(
        "tests.crash", "--testnet", "--mutant", fault, "--kills", "30", "--seed", str(FOUND_SOON_AT_A_VENUE)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LOST run" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 1 lost")
