"""Walk-forward by the real command: no fold learns from its test window, and `verify` replays each fold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import load
from agent.core.events import DAY_MS, HOUR_MS, Fill
from agent.replay.history import Plan
from agent.research.folds import Window
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import with_overrides
from agent.research.walk_forward import read_prices
from agent.store.database import open_database
from agent.store.queries import list_runs, read_rows
from agent.system.clock import iso
from tests.cli.conftest import Outcome
from tests.research.market_files import START, headlines, write_klines, write_scores

Tapewire = Callable[..., Outcome]
SMA = ("--strategy", "sma_cross", "--set", "fast=6", "--set", "slow=24")


@pytest.fixture
def klines(tmp_path: Path) -> Path:
    return write_klines(tmp_path / "BTCUSDT-1h.csv", days=90)


def walk_forward(tapewire: Tapewire, *args: object) -> dict[str, Any]:
    done = tapewire("walkforward", "--json", *args)
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    return result


def test_folds_are_recorded_runs_that_begin_warm_and_end_flat(tapewire: Tapewire, klines: Path) -> None:
    result = walk_forward(tapewire, "--klines", klines, *SMA, "--train", "20d", "--test", "20d", "-j", 1)
    assert [fold["test"] for fold in result["folds"]] == [
        [START + 21 * DAY_MS, START + 41 * DAY_MS],
        [START + 41 * DAY_MS, START + 61 * DAY_MS],
        [START + 61 * DAY_MS, START + 90 * DAY_MS],
    ]
    database = open_database("sqlite:///var/tapewire.db")
    runs = {run.id: run for run in list_runs(database)}
    for fold in result["folds"]:
        start, end = fold["test"]
        run = runs[fold["run"]]
        fills = list(read_rows(database, run.id, Fill))
        assert sum(fill.qty * fill.side.sign for fill in fills) == 0  # flat at the end
        assert min(fill.ts for fill in fills) > start  # no trade in the warm-up
        assert min(fill.ts for fill in fills) < start + 25 * HOUR_MS  # no wait for 24 bars either
        assert run.config["window"]["part_of"].startswith(result["id"])
        assert run.metrics["periods"] == (end - start) // HOUR_MS  # the warm-up is not measured
        assert f"{float(run.final_equity) / 10_000 - 1:.12f}" == f"{fold['total_return']:.12f}"
        assert tapewire("verify", run.id).code == 0
    database.close()


def test_the_joined_returns_compound_to_those_of_the_folds(tapewire: Tapewire, klines: Path) -> None:
    result = walk_forward(tapewire, "--klines", klines, *SMA, "--train", "20d", "--test", "15d", "-j", 1)
    whole = np.prod([1 + fold["total_return"] for fold in result["folds"]])
    assert np.prod(1 + np.array(result["returns"])) == pytest.approx(whole)
    assert result["evidence"]["total_return"] == pytest.approx(whole - 1)
    assert result["evidence"]["total_return_interval"]["value"] == pytest.approx(whole - 1)
    assert result["evidence"]["days"] == 69
    assert sum(fold["trades"] for fold in result["folds"]) == result["evidence"]["trades"]
    kept = json.loads(Path(f"var/walkforward/{result['id']}/result.json").read_text())
    assert kept == result


@pytest.mark.slow
def test_the_number_of_jobs_does_not_change_the_result(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, *SMA, "--train", "20d", "--test", "30d")
    one, two = walk_forward(tapewire, *args, "-j", 1), walk_forward(tapewire, *args, "-j", 2)
    assert one["returns"] == two["returns"]
    assert one["evidence"] == two["evidence"]  # a repetition does not count as a try
    assert one["evidence"]["trials"] == 1


@pytest.mark.slow
def test_each_other_try_on_the_same_time_counts(tapewire: Tapewire, klines: Path) -> None:
    strategy = ("--strategy", "sma_cross", "--set", "slow=24")
    args = ("--klines", klines, *strategy, "--train", "20d", "--test", "35d", "-j", 1)
    for number, fast in enumerate((4, 6, 8), start=1):
        result = walk_forward(tapewire, *args, "--set", f"fast={fast}")
        assert result["evidence"]["trials"] == number
    evidence = result["evidence"]
    assert evidence["deflated_sharpe"] < evidence["probabilistic_sharpe"]


@pytest.mark.slow
def test_refit_learns_only_from_the_past(tapewire: Tapewire, tmp_path: Path, klines: Path) -> None:
    """With another future and the same past it learns the same."""
    lines = klines.read_text().splitlines()
    upside_down = [
        ",".join([time, *(repr(10_000 / float(price)) for price in (opened, low, high, close)), volume])
        for time, opened, high, low, close, volume in (line.split(",") for line in lines[1 + 24 * 60 :])
    ]
    cut = 1 + 24 * 60
    scale = float(lines[cut - 1].split(",")[4]) / float(upside_down[0].split(",")[1])
    other = tmp_path / "other" / klines.name
    other.parent.mkdir()
    rescaled = [
        ",".join([parts[0], *(repr(float(price) * scale) for price in parts[1:5]), parts[5]])
        for parts in (line.split(",") for line in upside_down)
    ]
    other.write_text("\n".join([*lines[:cut], *rescaled]) + "\n")
    search = ("--strategy", "sma_cross", "--fit", "refit", "--range", "fast=3,6,12", "--range", "slow=24,48")
    results = [
        walk_forward(tapewire, "--klines", file, *search, "--train", "30d", "--test", "29d", "-j", 1)
        for file in (klines, other)
    ]
    learned = [[fold["overrides"]["strategy"]["params"] for fold in result["folds"]] for result in results]
    assert learned[0] == learned[1]  # the second fold's training ends on day 59
    assert results[0]["folds"][0]["total_return"] == results[1]["folds"][0]["total_return"]
    assert results[0]["folds"][1]["total_return"] != results[1]["folds"][1]["total_return"]
    tried = json.loads(Path(f"var/walkforward/{results[0]['id']}/fold-01/search.json").read_text())
    assert len(tried) == 6
    best = max(tried, key=lambda trial: trial["sharpe"])
    assert best["params"] == learned[0][0]


STUBBORN = """
from tapewire import Strategy

class Stubborn(Strategy):
    def on_bar(self, bar, market):
        self.target(bar.symbol, weight=0.5 if bar.start // 86_400_000 % 2 else -0.5)
"""


@pytest.mark.slow
def test_a_strategy_that_repeats_its_target_ends_flat_too(tapewire: Tapewire, klines: Path) -> None:
    Path("stubborn.py").write_text(STUBBORN)
    span = ("--strategy", "stubborn.py", "--train", "10d", "--test", "7d")
    result = walk_forward(tapewire, "--klines", klines, *span)
    assert len(result["folds"]) > 3
    database = open_database("sqlite:///var/tapewire.db")
    for fold in result["folds"]:
        fills = list(read_rows(database, fold["run"], Fill))
        assert sum(fill.qty * fill.side.sign for fill in fills) == 0
        assert len(fills) >= 2
        assert tapewire("verify", fold["run"]).out.startswith("identical")
    database.close()
    # always in the market: at random times without overlap the trades fill the whole time, too
    assert result["evidence"]["random_entries"]["draws"] == 2_000


@pytest.mark.slow
def test_headlines_that_move_the_price_beat_their_placebo(tapewire: Tapewire, tmp_path: Path) -> None:
    signs = headlines(days=90, every=8)
    moving = write_klines(tmp_path / "BTCUSDT-1h.csv", days=90, news=signs, volatility=0.002)
    scores = write_scores(tmp_path / "scores.csv", signs)
    params = ("allow_short=true", "position_size=0.9", "hold=1h")
    trade = ("--strategy", "sentiment", *(arg for param in params for arg in ("--set", param)))
    window = ("--train", "0d", "--test", "45d", "--placebo", 30, "-j", 1)
    real = walk_forward(tapewire, "--klines", moving, "--sentiment", scores, *trade, *window)
    assert real["evidence"]["total_return"] > 0.2
    assert real["evidence"]["placebo"]["p_value"] == pytest.approx(1 / 31)
    assert real["evidence"]["placebo"]["value"] == pytest.approx(real["evidence"]["total_return"])
    assert real["evidence"]["random_entries"]["p_value"] < 0.05
    assert real["verdict"]["tone"] == "good"

    idle = write_klines(tmp_path / "BTCUSDT-idle.csv", days=90)
    noise = walk_forward(tapewire, "--klines", idle, "--sentiment", scores, *trade, *window)
    assert noise["evidence"]["placebo"]["p_value"] > 0.05
    assert noise["verdict"]["tone"] != "good"


def test_the_printed_result_names_dates_tests_and_runs(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire("walkforward", "--klines", klines, *SMA, "--train", "20d", "--test", "30d", "-j", 1)
    assert done.code == 0
    assert "2024-01-22" in done.out
    assert "trades at random times" in done.out
    assert "is a run that `tapewire verify` can replay" in done.out


def test_learned_parameters_fit_a_narrow_terminal(
    tapewire: Tapewire, klines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    search = ("--strategy", "sma_cross", "--fit", "refit", "--range", "fast=12", "--range", "slow=150")
    done = tapewire("walkforward", "--klines", klines, *search, "--train", "20d", "--test", "60d", "-j", 1)
    assert "fast=12" in done.out
    assert "slow=150" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--train", "180d"), "no room for training on 180d"),
        (("--train", "20d", "--test", "12h"), "shorter than a day"),
        (("--train", "20d", "--fit", "magic"), "none, refit or fusion"),
        (("--train", "20d", "--range", "fast=1:2"), "--fit is none"),
        (("--train", "20 moons"), "--train: '20 moons' is not a duration"),
    ],
)
def test_wrong_usage(tapewire: Tapewire, klines: Path, args: tuple[str, ...], message: str) -> None:
    done = tapewire("walkforward", "--klines", klines, *SMA, *args)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_a_backtest_with_chosen_parameters_recommends_walkforward(tapewire: Tapewire, klines: Path) -> None:
    assert "walkforward" in tapewire("backtest", "--klines", klines, *SMA).out
    assert "walkforward" not in tapewire("backtest", "--klines", klines, "--strategy", "sma_cross").out


def test_prices_are_the_bars_of_the_window(klines: Path) -> None:
    inputs = ReplayInputs(Plan(((klines, None),)), load())
    found = read_prices(inputs, Window(START + DAY_MS, START + 2 * DAY_MS))["BTCUSDT"]
    assert found.ts.tolist() == [START + DAY_MS + hour * HOUR_MS for hour in range(1, 25)]


def test_overrides_are_merged_into_the_configuration() -> None:
    config = with_overrides(
        load(), {"strategy": {"params": {"position_size": 0.2}}, "paper": {"latency": "1s"}}, where="fold 1"
    )
    assert config.strategy.params["position_size"] == 0.2
    assert config.strategy.params["confidence_threshold"] == load().strategy.params["confidence_threshold"]
    assert config.paper.latency == 1_000
    other = with_overrides(load(), {"strategy": {"name": "sma_cross", "params": {"fast": 5}}}, where="fold 1")
    assert other.strategy.params == {"fast": 5}  # without those of the old strategy


@pytest.mark.slow
@pytest.mark.train
def test_a_fusion_model_is_trained_in_each_fold_on_what_came_before(
    tapewire: Tapewire, tmp_path: Path, klines: Path
) -> None:
    pytest.importorskip("torch", reason="the extra train is not installed")
    signs = headlines(days=90, every=24)
    news = tmp_path / "news.csv"
    rows = [
        f"{iso(START + hour * HOUR_MS)},Bitcoin {'gains' if sign > 0 else 'drops'} {hour}"
        for hour, sign in signs.items()
    ]
    news.write_text("\n".join(["published_at,title", *rows]) + "\n")
    args = ("--klines", klines, "--news", news, "--allow-leakage", "-j", 1, "--set", "margin=0")
    price = walk_forward(
        tapewire, *args, "--fit", "fusion", "--ablation", "price", "--train", "40d", "--test", "24d"
    )
    fingerprints = set()
    for fold in price["folds"]:
        card = json.loads(Path(fold["overrides"]["fusion"]["path"], "card.json").read_text())
        assert [data["latest"] for data in card["datasets"]] == [fold["train"][1]]
        assert fold["train"][1] + DAY_MS == fold["test"][0]
        assert fold["trades"] > 0
        assert tapewire("verify", fold["run"]).code == 0
        fingerprints.add(card["fingerprint"])
    assert len(fingerprints) == 2
    assert price["evidence"]["placebo"] is None  # it reads no headlines
    assert price["settings"]["recipe"]["ablation"] == "price"

    read = walk_forward(tapewire, *args, "--fit", "fusion", "--train", "60d", "--test", "29d", "--placebo", 1)
    assert read["evidence"]["placebo"]["draws"] == 1
    assert read["evidence"]["trials"] == 2

    done = tapewire("walkforward", *args, "--fit", "fusion", "--strategy", "sentiment")
    assert done.code == 2
    assert "trades with the strategy fusion" in done.err
    path = read["folds"][0]["overrides"]["fusion"]["path"]
    early = tapewire(
        "check", "costs", "--klines", klines, "--news", news, "--strategy", "fusion", "--fusion", path
    )
    assert early.code == 3  # it was trained on a part of this window
