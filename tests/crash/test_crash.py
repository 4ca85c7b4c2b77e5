"""A share of `make crash`, and proof that it would notice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support import mutants


def harness(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_after_every_kill_the_run_goes_on_as_if_there_had_been_none() -> None:
    done = harness("tests.crash", "--kills", "12", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "12 kills, 12 recovered, 0 lost"


@pytest.mark.slow
@pytest.mark.parametrize("fault", mutants.names(mutants.IN_STORE))
def test_a_product_with_a_fault_is_found_out(fault: str) -> None:
    done = harness("tests.crash", "--mutant", fault, "--kills", "50")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LOST run" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 1 lost")


@pytest.mark.slow
@pytest.mark.parametrize("faults", [(), ("--faults",)], ids=["calm", "faulty"])
def test_an_agent_that_trades_at_an_exchange_has_its_books_after_every_kill(faults: tuple[str, ...]) -> None:
    done = harness("tests.crash", "--testnet", *faults, "--kills", "6", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, traded, last = done.stdout.splitlines()
    assert last == "6 kills, 6 recovered, 0 lost"
    assert not traded.startswith("0 orders")


@pytest.mark.slow
@pytest.mark.parametrize("fault", mutants.names(mutants.BETWEEN_LIVES))
def test_a_gateway_with_a_fault_is_found_out(fault: str) -> None:
    done = harness("tests.crash", "--testnet", "--mutant", fault, "--kills", "30")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LOST run" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 1 lost")
