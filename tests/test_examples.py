"""The examples run as they stand, in an empty folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.sandbox import Sandbox, SandboxOptions
from tests.conftest import ROOT

SAMPLE = ROOT / "tests/sample_data"


def example(name: str, folder: Path, *args: str) -> str:
    """What it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(next((ROOT / "examples").glob(f"{name}_*.py"))), *args]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_01_trains_exports_and_reads_and_03_trades_on_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    printed = example("01", tmp_path, "--texts", "60", "--output", "model")
    assert "trained " in printed
    assert (tmp_path / "model-onnx/card.json").exists()
    printed = example("03", tmp_path, "--model", "model-onnx")
    assert "SPY (made up)" in printed


@pytest.mark.slow
def test_02_reads_the_sample_data_or_an_exchange(tmp_path: Path) -> None:
    printed = example("02", tmp_path, "--offline")
    assert "BTCUSDT: 144 bars of 15m, 2025-03-02 12:00 to 2025-03-03 23:45" in printed
    assert "correlation of their returns: 0.8" in printed


@pytest.mark.slow
async def test_02_asks_an_exchange_on_this_machine(tmp_path: Path) -> None:
    options = SandboxOptions((SAMPLE / "BTCUSDT-1m.csv", SAMPLE / "ETHUSDT-1m.csv"), history_bars=900)
    async with Sandbox(options) as sandbox:
        args = ("--endpoint", sandbox.rest_url, "--interval", "1m", "--limit", "600")
        printed = await asyncio.to_thread(example, "02", tmp_path, *args)
    assert printed.count("600 bars of 1m") == 2


@pytest.mark.slow
def test_03_writes_the_reports_of_both_markets(tmp_path: Path) -> None:
    printed = example("03", tmp_path)
    assert "Crypto: Lost 0.3\u00a0% after costs; buy-and-hold lost 1.9\u00a0%." in printed
    assert "SPY (made up): " in printed
    assert {page.name for page in (tmp_path / "var/examples").glob("*.html")} == {"crypto.html", "spy.html"}


@pytest.mark.slow
def test_02_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    script = next((ROOT / "examples").glob("02_*.py"))
    done = subprocess.run(
        [sys.executable, str(script), "--endpoint", "http://127.0.0.1:9", "--interval", "7m"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Bybit has no klines of 7m (one of 1m, ")
    assert "Traceback" not in done.stderr
