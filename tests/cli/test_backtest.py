"""`tapewire backtest` and `tapewire verify` on real files and a real database; errors are one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import resource as limits
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.events import AssetSentiment, Sentiment
from agent.store.database import open_database
from agent.store.queries import list_runs, read_rows
from agent.store.runs import RunStatus
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.models.conftest import write_reader

__all__ = ["write_reader"]

Tapewire = Callable[..., Outcome]
SAMPLE = ROOT / "tests/sample_data"
BTC, ETH = SAMPLE / "BTCUSDT-1m.csv", SAMPLE / "ETHUSDT-1m.csv"
NEWS = SAMPLE / "headlines.csv"
SMA = ("--strategy", "sma_cross", "--set", "fast=20", "--set", "slow=100")
HEADER = "open_time,open,high,low,close,volume\n"
GOOD = [f"2025-01-01T00:{minute:02}:00Z,100,101,99,100,5" for minute in range(10)]


def run_json(tapewire: Tapewire, *args: str | Path) -> dict:
    outcome = tapewire("backtest", *args, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def scores(folder: Path) -> Path:
    """Write scored headlines over the sample's second day: bullish in odd hours, bearish in even ones."""
    file = folder / "scores.csv"
    rows = []
    for hour in range(24):
        for minute in (10, 40):
            words = " ".join(
                hashlib.sha256(f"{hour}{minute}{n}".encode()).hexdigest()[:6] for n in range(5)
            )  # no two are one story
            bearish, bullish = (0.05, 0.9) if hour % 2 else (0.9, 0.05)
            rows.append(f"2025-03-03T{hour:02}:{minute}:07Z,Bitcoin {words},{bearish},0.05,{bullish}")
    file.write_text("published_at,title,bearish,neutral,bullish\n" + "\n".join(rows) + "\n")
    return file


def test_a_backtest_prints_its_result_and_is_verified(tapewire: Tapewire) -> None:
    result = run_json(tapewire, "--klines", BTC, "--klines", ETH, *SMA)
    assert result["trades"] == result["metrics"]["trades"]["trades"] > 5
    assert abs(result["final_equity"] - result["metrics"]["final_equity"]) < 1e-6
    verified = tapewire("verify", result["run"])
    assert verified.code == 0
    assert verified.out.startswith("identical: 4,3")


def test_scored_headlines_make_trades_and_are_verified(tapewire: Tapewire, tmp_path: Path) -> None:
    result = run_json(
        tapewire, "--klines", BTC, "--klines", ETH, "--sentiment", scores(tmp_path), "--strategy", "sentiment"
    )
    assert result["trades"] > 5
    again = json.loads(tapewire("verify", result["run"], "--json").out)
    assert again["identical"] is True
    assert again["decisions"] > 100


def test_a_note_counts_scores_of_symbols_that_are_not_traded(tapewire: Tapewire, tmp_path: Path) -> None:
    """Two of the three scores name BTC, but BTCUSDT is traded."""
    rows = [
        f"2025-03-03T1{n}:00:00Z,{symbol},0.1,0.1,0.8" for n, symbol in enumerate(("BTC", "BTCUSDT", "BTC"))
    ]
    (tmp_path / "scores.csv").write_text(
        "published_at,symbol,bearish,neutral,bullish\n" + "\n".join(rows) + "\n"
    )
    result = run_json(
        tapewire,
        "--klines",
        f"BTC/USDT:USDT={BTC}",
        "--sentiment",
        tmp_path / "scores.csv",
        "--strategy",
        "sentiment",
    )
    assert "scores.csv: 2 scores name a symbol that is not traded: BTC (2)" in result["notes"]
    assert tapewire("verify", result["run"]).code == 0


def test_scores_of_assets_and_kinds_in_a_file_are_recorded_and_verified(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    """No score has probabilities of bitcoin, which is traded; one has them of DOGE."""
    rows = [
        "2025-03-03T11:00:00Z,Bitcoin leads,0.1,0.1,0.8,access,0.75,"
        '"{""DOGE"": {""bearish"": 0.5, ""neutral"": 0.25, ""bullish"": 0.25}}"',
        "2025-03-03T12:00:00Z,Bitcoin gains,0.1,0.1,0.8,price,,",
    ]
    header = "published_at,title,bearish,neutral,bullish,kind,kind_confidence,assets"
    (tmp_path / "scores.csv").write_text("\n".join([header, *rows]) + "\n")
    result = run_json(
        tapewire, "--klines", BTC, "--sentiment", tmp_path / "scores.csv", "--strategy", "sentiment"
    )
    assert {
        "scores.csv: the probabilities of assets are of none that is traded: DOGE (1)",
        "scores.csv: 1 headlines with a kind of news but no kind_confidence: taken as certain",
    } <= set(result["notes"])
    with closing(open_database(f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}")) as database:
        found = list(read_rows(database, result["run"], Sentiment))
    assert [(one.kind, one.kind_confidence) for one in found] == [("access", 0.75), ("price", 1.0)]
    assert found[0].assets == (AssetSentiment("DOGE", 0.5, 0.25, 0.25),)
    assert tapewire("verify", result["run"]).code == 0


def test_a_model_reads_the_assets_of_headlines_by_their_configured_names(
    tapewire: Tapewire, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    """The alias `orange coin` is bitcoin, which soars; ether crashes. The second run scores nothing."""
    model = write_reader(tmp_path / "reader")
    (tmp_path / "config.toml").write_text(
        f"[model]\npath = '{model}'\n[instruments.BTCUSDT]\naliases = ['orange coin']\n"
    )
    (tmp_path / "news.csv").write_text(
        "published_at,title\n2025-03-03T11:00:00Z,Ether crashes after the orange coin soars\n"
    )
    given = ("--klines", BTC, "--klines", ETH, "--news", tmp_path / "news.csv", "--strategy", "sentiment")
    runs = [run_json(tapewire, *given)["run"] for _ in range(2)]
    with closing(open_database(f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}")) as database:
        first, second = ([*read_rows(database, run, Sentiment)] for run in runs)
    (read,) = first
    assert [one.asset for one in read.assets] == ["ETH", "BTC"]
    assert read.assets[0].bearish > 0.9
    assert read.assets[1].bullish > 0.7  # the mean over `orange` (0) and `coin` (+3)
    assert read.kind == "price"
    assert first == second
    assert tapewire("verify", runs[0]).code == 0


def test_a_note_names_headlines_whose_times_may_be_midnights_of_another_zone(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    """Midnight in New York is 05:00 UTC before 9 March 2025; five of the six headlines have that time."""
    rows = [f"2025-03-0{n}T05:00:00Z,Bitcoin rises {n}" for n in range(1, 6)] + [
        "2025-03-03T12:34:56Z,Bitcoin falls"
    ]
    (tmp_path / "news.csv").write_text("published_at,title\n" + "\n".join(rows) + "\n")
    outcome = tapewire(
        "backtest", "--klines", BTC, "--news", tmp_path / "news.csv", "--strategy", "sentiment", "--json"
    )
    assert (
        "news.csv: 5 of 6 headlines stand at 05:00 UTC: if these are dates of another zone"
        in outcome.out + outcome.err
    )


def test_without_klines_the_sample_data_is_replayed(tapewire: Tapewire) -> None:
    outcome = tapewire("backtest", *SMA)
    assert outcome.code == 0
    assert "replaying the sample data" in outcome.err
    assert "sma_cross on BTCUSDT, ETHUSDT" in outcome.out


def test_the_same_backtest_gives_the_same_metrics(tapewire: Tapewire) -> None:
    one, other = (run_json(tapewire, "--klines", BTC, *SMA) for _ in range(2))
    assert one["run"] != other["run"]
    assert one["metrics"] == other["metrics"]


def test_only_bars_of_the_window_are_replayed(tapewire: Tapewire) -> None:
    result = run_json(tapewire, "--klines", BTC, *SMA, "--start", "2025-03-03", "--end", "2025-03-03T06:00Z")
    assert result["metrics"]["periods"] == 360


def test_verify_shows_the_first_decision_that_was_altered(tapewire: Tapewire, tmp_path: Path) -> None:
    run = run_json(tapewire, "--klines", BTC, *SMA)["run"]
    with sqlite3.connect(tmp_path / "var/tapewire.db") as database:
        database.execute(
            "UPDATE fills SET price = '1.00' WHERE seq = (SELECT min(seq) FROM fills WHERE run_id = ?)", [run]
        )
    outcome = tapewire("verify", run)
    assert outcome.code == 1
    assert "different at decision" in outcome.out
    assert "recorded  Fill(" in outcome.out


def test_verify_refuses_input_files_that_changed_since_the_run(tapewire: Tapewire, tmp_path: Path) -> None:
    copy = tmp_path / BTC.name
    copy.write_bytes(BTC.read_bytes())
    run = run_json(tapewire, "--klines", copy, *SMA)["run"]
    copy.write_text(copy.read_text().replace("2025-03-03T12:00", "2025-03-03T12:00", 1) + "\n")
    outcome = tapewire("verify", run)
    assert outcome.code == 1
    assert "has changed since the run" in outcome.err
    copy.unlink()
    assert tapewire("verify", run).code == 2


def damaged_parquet(folder: Path) -> Path:
    file = folder / "BTCUSDT-1m.parquet"
    pq.write_table(pa.table({"open_time": [1, 2], "open": [1.0, 2.0]}), file)
    file.write_bytes(file.read_bytes()[:-20])
    return file


BAD_KLINES = {
    "empty file": ("", "is empty"),
    "header only": (HEADER, "only its header"),
    "wrong columns": ("open_time,opn,high,low,close,volume\n" + GOOD[0] + "\n", "open"),
    "NaN price": (
        HEADER + "\n".join([*GOOD[:5], "2025-01-01T00:05:00Z,nan,101,99,100,5", *GOOD[6:]]) + "\n",
        "row 6",
    ),
    "negative price": (
        HEADER + "\n".join([*GOOD[:5], "2025-01-01T00:05:00Z,-100,101,-101,100,5", *GOOD[6:]]) + "\n",
        "row 6",
    ),
    "high below low": (
        HEADER + "\n".join([*GOOD[:5], "2025-01-01T00:05:00Z,100,98,99,100,5", *GOOD[6:]]) + "\n",
        "row 6",
    ),
    "unsorted": (HEADER + "\n".join([*GOOD[:3], GOOD[5], GOOD[4], *GOOD[6:]]) + "\n", "row"),
    "two bars of one time": (
        HEADER + "\n".join([*GOOD, "2025-01-01T00:09:00Z,100,105,99,101,5"]) + "\n",
        "row 11",
    ),
    "mixed intervals": (
        HEADER + "\n".join([*GOOD, "2025-01-01T00:09:30Z,100,101,99,100,5"]) + "\n",
        "row 11",
    ),
    "naive times": (HEADER + "\n".join(row.replace("Z,", ",") for row in GOOD) + "\n", "timezone"),
    "wrong unit": (HEADER + "\n".join(f"{17 + n},100,101,99,100,5" for n in range(9)) + "\n", "seconds"),
    "cut off": (HEADER + "\n".join(GOOD)[:-12], "row"),
}


@pytest.mark.parametrize(("content", "text"), BAD_KLINES.values(), ids=BAD_KLINES)
def test_bad_klines_are_one_clear_line(tapewire: Tapewire, tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "BTCUSDT-1m.csv"
    file.write_text(content)
    outcome = tapewire("backtest", "--klines", file, *SMA)
    assert outcome.code in (1, 2)
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert file.name in lines[0]
    assert text in lines[0]
    assert "Traceback" not in outcome.err
    assert not outcome.out


def hours(path: Path, count: int) -> Path:
    """Write bars of an hour."""
    rows = [f"2025-03-02T{hour:02}:00:00Z,100,101,99,100,5" for hour in range(count)]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def test_files_of_higher_intervals_are_not_read_and_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    alone = run_json(tapewire, "--klines", BTC, *SMA)
    higher = hours(tmp_path / "BTCUSDT-1h.csv", 20)
    both = run_json(tapewire, "--klines", higher, "--klines", BTC, *SMA)
    assert both["final_equity"] == alone["final_equity"]
    outcome = tapewire("backtest", "--klines", higher, "--klines", BTC, *SMA)
    note = "BTCUSDT-1h.csv: its 20 bars of 1h are not read, because the run's bars are of 1m"
    assert note in " ".join(outcome.out.split())
    assert tapewire("verify", "latest").code == 0


def test_a_symbol_without_bars_of_the_runs_interval_is_refused(tapewire: Tapewire, tmp_path: Path) -> None:
    higher = hours(tmp_path / "ETHUSDT-1h.csv", 20)
    outcome = tapewire("backtest", "--klines", BTC, "--klines", higher, *SMA)
    assert outcome.code == 1
    assert "ETHUSDT-1h.csv has bars of 1h" in outcome.err
    assert "give each symbol a file of the run's interval" in outcome.err


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--klines", "none.csv", *SMA), 1, "none.csv"),
        (("--klines", BTC, "--klines", BTC, *SMA), 2, "two kline files for BTCUSDT"),
        (("--klines", BTC, "--symbol", "SOLUSDT"), 2, "no klines for SOLUSDT"),
        (("--klines", BTC, "--strategy", "sma_cros"), 2, "did you mean sma_cross?"),
        (("--klines", BTC, *SMA[:2], "--set", "fsat=3"), 2, "did you mean fast?"),
        (("--klines", BTC, *SMA[:2], "--set", "fast=many"), 2, "fast"),
        (("--klines", BTC, *SMA[:2], "--set", "fast"), 2, "NAME=VALUE"),
        (("--klines", BTC, *SMA, "--start", "yesterday"), 2, "is no date"),
        (("--klines", BTC, *SMA, "--start", "2025-03-03", "--end", "2025-03-02"), 2, "is not before"),
        (("--klines", BTC, *SMA, "--start", "2030-01-01"), 1, "no bar opens in the window"),
        (("--klines", BTC, *SMA, "--category", "options"), 2, "one of linear, spot, equity"),
        (("--klines", BTC, "--strategy", "sentiment"), 2, "no file of headlines is given"),
        (
            ("--klines", BTC, "--strategy", "sentiment"),
            2,
            "a strategy that uses prices only: --strategy sma_cross",
        ),
        (("--klines", "none.csv", "--strategy", "sentiment"), 1, "no such file: none.csv"),
        (
            ("--klines", BTC, "--strategy", "sentiment", "--news", "a.csv", "--sentiment", "b.csv"),
            2,
            "--sentiment needs none",
        ),
        (("--config", "none.toml"), 2, "no configuration file"),
    ],
)
def test_wrong_usage_is_an_error_with_a_hint(
    tapewire: Tapewire, args: tuple[str | Path, ...], code: int, text: str
) -> None:
    outcome = tapewire("backtest", *args)
    assert outcome.code == code
    assert text in outcome.err
    assert "Traceback" not in outcome.err


def test_a_note_names_headlines_that_the_strategy_does_not_use(tapewire: Tapewire) -> None:
    outcome = tapewire("backtest", "--klines", BTC, "--news", NEWS, *SMA)
    assert outcome.code == 0
    assert "headlines.csv is not read: strategy sma_cross uses no headlines" in outcome.err
    assert "is not read" not in tapewire("backtest", "--klines", BTC, *SMA).err


def test_news_that_is_not_utf_8_is_refused(tapewire: Tapewire, tmp_path: Path) -> None:
    news = tmp_path / "news.csv"
    news.write_bytes(
        "published_at,title\n2025-03-03T10:00:00Z,Café chain accepts bitcoin\n".encode("latin-1")
    )
    outcome = tapewire("backtest", "--klines", BTC, "--news", news, "--strategy", "sentiment")
    assert outcome.code == 1
    assert "UTF-8" in outcome.err


def test_a_damaged_parquet_is_refused(tapewire: Tapewire, tmp_path: Path) -> None:
    outcome = tapewire("backtest", "--klines", damaged_parquet(tmp_path), *SMA)
    assert outcome.code == 1
    assert "BTCUSDT-1m.parquet" in outcome.err


def test_a_typo_in_the_configuration_is_an_error_with_file_and_key(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("[paper]\nlatencey = '1s'\n")
    outcome = tapewire("backtest", "--klines", BTC, *SMA)
    assert outcome.code == 2
    assert "config.toml: unknown key paper.latencey; did you mean paper.latency?" in outcome.err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_complete_run(tmp_path: Path) -> None:
    """The database may not exceed 260 kB: the run starts, then a write fails."""

    def limit_file_size() -> None:
        limits.setrlimit(limits.RLIMIT_FSIZE, (260_000, 260_000))

    options = [
        "--klines",
        BTC,
        "--klines",
        ETH,
        "--strategy",
        "sma_cross",
        "--set",
        "fast=1",
        "--set",
        "slow=2",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "backtest", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=limit_file_size,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    database = open_database(f"sqlite:///{tmp_path}/var/tapewire.db")
    assert all(run.status is not RunStatus.COMPLETE for run in list_runs(database))
    database.close()


def test_an_exception_in_a_strategy_is_shown_with_file_and_line_and_fails_the_run(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(
        "from agent.core.strategy import *\n\n\nclass Broken(Strategy):\n"
        "    def on_kline(self, kline, market):\n        1 / 0\n"
    )
    outcome = tapewire("backtest", "--klines", BTC, "--strategy", "broken:Broken")
    assert outcome.code == 1
    assert "broken.py, line 6" in outcome.err
    database = open_database(f"sqlite:///{tmp_path}/var/tapewire.db")
    assert [run.status for run in list_runs(database)] == [RunStatus.FAILED]
    database.close()


def test_a_strategy_from_a_file_trades(tapewire: Tapewire, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from agent.core.strategy import *\n\n\nclass Mine(Strategy):\n"
        "    class Params(StrategyParams):\n        weight: float = 0.5\n\n"
        "    def on_kline(self, kline: Kline, market: Market) -> None:\n"
        "        self.target(kline.symbol, weight=self.params.weight if kline.close > kline.open else 0.0)\n"
    )
    result = run_json(tapewire, "--klines", BTC, "--strategy", "own:Mine", "--set", "weight=0.3")
    assert result["trades"] > 50
    assert tapewire("verify", result["run"]).code == 0


def test_a_backtest_trades_on_paper_even_if_the_agent_trades_on_a_testnet(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    live = tmp_path / "live.toml"
    live.write_text('[execution]\nmode = "testnet"\n')
    testnet, paper = (
        run_json(tapewire, "--klines", BTC, *SMA, *config) for config in (("--config", live), ())
    )
    assert testnet["trades"] == paper["trades"] > 0
    assert testnet["final_equity"] == paper["final_equity"]
    assert tapewire("verify", testnet["run"], "--config", live).code == 0


def test_both_final_equities_include_funding_inside_the_last_bar(tapewire: Tapewire, tmp_path: Path) -> None:
    """Funding is paid at 09:00 and 13:00; 13:00 lies inside the last bar, 12:00 to 16:00.

    The four 4-hour bars are at 100. With the default latency 98 are bought at the close of the second bar,
    08:00, so each payment is 1 % of 9,800.
    """
    day, hour = 1_735_689_600_000, 3_600_000
    bars = "".join(f"{day + n * 4 * hour},100,100,100,100,1000000\n" for n in range(4))
    klines, funding = tmp_path / "BTCUSDT-4h.csv", tmp_path / "BTCUSDT-funding.csv"
    klines.write_text("open_time,open,high,low,close,volume\n" + bars)
    funding.write_text("ts,rate\n" + "".join(f"{day + n * hour},0.01\n" for n in (1, 5, 9, 13)))
    done = tapewire(
        "backtest", "--klines", klines, "--funding", funding, "--strategy", "buy_and_hold", "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    with sqlite3.connect("var/tapewire.db") as store:
        paid = [
            (row[0], float(row[1])) for row in store.execute("select ts, amount from funding order by seq")
        ]
    store.close()
    assert [(ts - day) // hour for ts, _ in paid] == [9, 13]
    metrics = found["metrics"]
    assert metrics["final_equity"] == pytest.approx(float(found["final_equity"]), abs=1e-9)
    assert [amount for _, amount in paid] == [-98.0, -98.0]
    assert metrics["funding"] == pytest.approx(-196.0, abs=1e-9)
    assert metrics["final_equity"] == pytest.approx(
        10_000 - 196 - 98 * 0.10 - 98 * 100.10 * 0.00055, abs=1e-6
    )  # a tick, 0.055 %
