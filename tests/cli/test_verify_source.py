"""`tapewire verify` of a run whose strategy isn't built in: a file that has changed since is not imported."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BTC = ROOT / "tests" / "sample_data" / "BTCUSDT-1m.csv"
MINE = """
from agent.core.strategy import Strategy

class Mine(Strategy):
    def on_kline(self, kline, market):
        if kline.start // 60_000 % 60 == 0:
            self.target(kline.symbol, weight=0.5 if kline.start // 3_600_000 % 2 else 0.0)
"""


def tapewire(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, which imports what lies in its working folder `folder`."""
    code = "import sys; sys.path.remove(''); from agent.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Run a backtest with a strategy from a file; return the id of the run."""
    (tmp_path / "mine.py").write_text(MINE)
    done = tapewire(tmp_path, "backtest", "--klines", f"BTCUSDT={BTC}", "--strategy", "mine:Mine", "--json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["run"])


@pytest.mark.slow
def test_a_run_with_an_unchanged_strategy_file_is_verified(run: str, tmp_path: Path) -> None:
    done = tapewire(tmp_path, "verify", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("identical")


@pytest.mark.slow
def test_a_strategy_file_that_has_changed_is_not_imported(run: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{MINE}")
    done = tapewire(tmp_path, "verify", run)
    assert done.returncode == 3
    assert "has changed since the run" in done.stderr
    assert "--trust-strategy" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert tapewire(tmp_path, "verify", run, "--trust-strategy").returncode == 0
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_strategy_whose_hash_was_not_recorded_is_not_imported(run: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "var" / "tapewire.db") as database:
        database.execute("""UPDATE runs SET versions = '{"python": "3"}'""")
    done = tapewire(tmp_path, "verify", run)
    assert done.returncode == 3
    assert "without its source's hash" in done.stderr
    assert tapewire(tmp_path, "verify", run, "--trust-strategy").returncode == 0


@pytest.mark.slow
def test_files_beside_a_strategy_do_not_shadow_installed_modules(tmp_path: Path) -> None:
    for name in ("jinja2", "markupsafe"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "mine.py").write_text(MINE)
    for strategy in ("sma_cross", "mine:Mine"):
        arguments = (
            "backtest",
            "--klines",
            f"BTCUSDT={BTC}",
            "--strategy",
            strategy,
            "--report",
            "report.html",
        )
        done = tapewire(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "report.html").exists()
        assert not (tmp_path / "ran").exists()


HOURLY = """
from agent.core.strategy import Strategy

class Mine(Strategy):
    reads_features = False

    def on_kline(self, kline, market):
        if kline.start // 60_000 % 60 == 0:
            self.target(kline.symbol, weight=0.5 if kline.start // 3_600_000 % 2 else 0.0)

    def quiet_bars(self, bars, market):
        for number, start in enumerate(bars.start.tolist()):
            if start // 60_000 % EVERY == 0:
                return number
        return len(bars)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "code", "said"), [(60, 0, "identical"), (120, 1, "different at decision 1, on event 61")]
)
def test_a_strategy_that_lets_bars_pass_at_which_it_acts_is_not_verified(
    tmp_path: Path, every: int, code: int, said: str
) -> None:
    (tmp_path / "mine.py").write_text(HOURLY.replace("EVERY", str(every)))
    done = tapewire(tmp_path, "backtest", "--klines", f"BTCUSDT={BTC}", "--strategy", "mine:Mine", "--json")
    assert done.returncode == 0, done.stderr
    run = str(json.loads(done.stdout)["run"])
    found = tapewire(tmp_path, "verify", run)
    assert (found.returncode, found.stdout[: len(said)]) == (code, said), found.stderr
    assert tapewire(tmp_path, "verify", run, "--blocks").stdout.startswith("identical")
