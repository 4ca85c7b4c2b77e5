"""Tables of all commands at 80 columns: no line is longer, and no heading and no figure is cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.cli.conftest import Outcome
from tests.conftest import ROOT

SAMPLE = ROOT / "tests/sample_data"
FILES = ("--klines", SAMPLE / "BTCUSDT-1m.csv", "--klines", SAMPLE / "ETHUSDT-1m.csv")
SMA = (*FILES, "--strategy", "sma_cross", "--set", "fast=20", "--set", "slow=100")
TEXTS = "text,label\nBitcoin soars,bullish\nEther crashes,bearish\nA conference opens,neutral\n"


def check_width(outcome: Outcome) -> str:
    """Check that no line is longer than 80 columns, and that none has a word that is cut."""
    lines = outcome.out.splitlines()
    long = [line for line in lines if cell_len(line.rstrip()) > 80]
    assert long == []
    cut = [line for line in lines if re.search(r"\w…(\s|$)", line) and not re.search(r"\w+ …$", line)]
    assert cut == []
    return outcome.out


@pytest.mark.slow
def test_every_table_fits_80_columns(
    tapewire: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "texts.csv").write_text(TEXTS)

    def run(*arguments: str | Path, code: int = 0) -> str:
        done = tapewire(*arguments)
        assert done.code == code, (arguments, done.err)
        return check_width(done)

    news = ("backtest", "--strategy", "sentiment", "--start", "2025-03-03T12:00Z")
    shown = run(*news)
    for words in ("2025-03-03 12:00 to 2025-03-04 00:00 UTC: 0.5 days, 720 bars of 1m", "by exit reason"):
        assert words in shown
    run("backtest", *SMA)
    shown = run("runs")
    for heading in ("kind", "strategy", "window", "return", "Sharpe", "drawdown", "trips"):
        assert heading in shown
    first, second = (row["id"] for row in json.loads(tapewire("runs", "--json").out)["runs"][:2])
    run("diff", first, second)
    run("explain", first)
    run("explain", second, "1")
    run("strategy", "show", "sentiment")
    shown = run("sweep", *SMA[:6], "--range", "fast=10,20", "--range", "slow=100,200", "-j", "1")
    assert "total return" in shown
    tapewire("token", "add", "desk", "--scope", "read", "--scope", "command")
    run("token", "list")
    run("score", "Bitcoin soars to a record", "Ether crashes after a long exploit of a lender", "x")
    shown = run("evaluate", "--adapter", "starter", "--data", "texts.csv", "--format", "csv")
    assert "precision" in shown
    assert "→ bearish" in shown
    shown = run("check", "costs", *SMA, "--start", "2025-03-03T12:00Z", "-j", "1", code=1)
    assert "× 0.5" in shown or "× 1" in shown
