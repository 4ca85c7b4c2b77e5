"""Every evaluation is counted, whichever way it came, and results are deflated by all of them."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tapewire as tw
from agent.cli.command_options import act_as
from strategies.sma_cross import SmaCross
from tests.cli.conftest import Outcome
from tests.research.market_files import write_klines

Tapewire = Callable[..., Outcome]
SMA = ("--strategy", "sma_cross", "--symbol", "BTCUSDT")


def answer(tapewire: Tapewire, *args: object) -> Any:
    done = tapewire(*map(str, args), "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_each_way_counts_and_the_same_variant_counts_once(tapewire: Tapewire, tmp_path: Path) -> None:
    first = answer(tapewire, "backtest", *SMA)
    study = first["study"]
    assert (study["tries"], study["period"], study["periods"]) == (1, 3_600_000, 36)
    swept = answer(tapewire, "sweep", *SMA, "--range", "fast=10,20,30", "--range", "slow=100", "--store")
    assert {row["study"]["tries"] for row in swept} == {3}  # one of them is the default
    same = next(row["study"] for row in swept if row["params"]["fast"] == 20)
    assert same["sharpe"] == study["sharpe"]
    assert same["deflated_sharpe"] < study["deflated_sharpe"]
    bars = tw.sample_data("BTCUSDT-1m.csv")
    script = tw.Backtest("sma_cross", bars, params={"fast": 12}).run().standing
    assert script is not None
    assert (script.tries, script.study) == (4, study["study"])
    same_class = tw.Backtest(SmaCross, bars, params={"fast": 20}).run().standing
    assert same_class is not None
    assert same_class.tries == 4
    for half in (("--end", "2025-03-03T12:00Z"), ("--start", "2025-03-03T12:00Z")):
        found = answer(tapewire, "backtest", *SMA, *half)["study"]
        assert found["tries"] == 5  # the halves don't overlap each other
    (whole, *_) = [one for one in answer(tapewire, "tries")["studies"] if one["study"] == study["study"]]
    assert (whole["tries"], whole["evaluations"], whole["tries_on_data"]) == (4, 9, 6)
    listed = answer(tapewire, "tries", first["run"])
    assert [(one["kind"], one["by"], one["evaluations"]) for one in listed["tries"]] == [
        ("backtest", "cli", 4),
        ("sweep", "cli", 2),
        ("sweep", "cli", 2),
        ("backtest", "python", 1),
        ("backtest", "cli", 1),
        ("backtest", "cli", 1),
    ]
    assert answer(tapewire, "tries", "--study", study["study"][:6]) == listed
    assert tapewire("runs", "delete", first["run"], "--yes").code == 0
    assert answer(tapewire, "tries", "--study", study["study"]) == listed
    assert "6 tries on these data" in tapewire("tries", "--study", study["study"]).out


def test_what_the_result_depends_on_makes_another_variant(tapewire: Tapewire, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    source = "import tapewire as tw\n\nclass Mine(tw.Strategy[tw.StrategyParams]):\n    pass\n"
    mine.write_text(source)
    own = ("--strategy", "mine.py", "--symbol", "BTCUSDT")
    assert answer(tapewire, "backtest", *own)["study"]["tries"] == 1
    assert answer(tapewire, "backtest", *own)["study"]["undefined"] == "equity never moved"
    Path("other.toml").write_text('[paper]\nlatency = "2s"\n')
    assert answer(tapewire, "backtest", *own, "-c", "other.toml")["study"]["tries"] == 2
    Path("same.toml").write_text('[log]\nlevel = "warning"\n')
    assert answer(tapewire, "backtest", *own, "-c", "same.toml")["study"]["tries"] == 2
    mine.write_text(source + "# another source\n")
    sys.modules.pop("mine")
    assert answer(tapewire, "backtest", *own)["study"]["tries"] == 3


def test_a_walk_forward_is_one_try(tapewire: Tapewire, tmp_path: Path) -> None:
    bars = write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)
    args = ("--klines", bars, "--strategy", "sma_cross")
    result = answer(
        tapewire, "walkforward", *args, "--train", "20d", "--test", "15d", "--placebo", 0, "-j", 1
    )
    assert result["evidence"]["trials"] == 1
    found = answer(tapewire, "tries", result["id"])
    assert [(one["kind"], one["run"]) for one in found["tries"]] == [("walkforward", result["id"])]
    assert found["tries"][0]["deflated_sharpe"] == pytest.approx(result["evidence"]["deflated_sharpe"])
    fold = tapewire("tries", result["folds"][0]["run"])
    assert (fold.code, "folds of walk-forwards" in fold.err) == (2, True)
    plain = answer(tapewire, "backtest", *args)["study"]
    assert (plain["tries"], plain["period"]) == (2, 86_400_000)


@pytest.mark.slow
def test_a_check_that_shows_a_return_is_a_try(tapewire: Tapewire) -> None:
    """Otherwise an assistant could search by checks."""
    first = answer(tapewire, "backtest", *SMA)
    tapewire("check", "costs", *SMA, "--json")  # the same variant
    tapewire("check", "costs", *SMA, "--set", "fast=10", "--json")
    tapewire("check", "placebo", *SMA, "--set", "fast=11", "--draws", "19", "--json")
    listed = answer(tapewire, "tries", first["run"])["tries"]
    assert [(one["kind"], one["evaluations"]) for one in listed] == [("backtest", 2), ("check", 1)]


@pytest.mark.slow
def test_held_out_time_is_judged_once(tapewire: Tapewire, tmp_path: Path) -> None:
    bars = write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)
    args = ("tune", "--klines", bars, "--strategy", "sma_cross", "--holdout", "15d", "--trials", 3)
    one = ("--range", "fast=4,5", "--range", "slow=30")
    first = answer(tapewire, *args, *one)
    assert first["held_out"]["stamps"] == []
    assert answer(tapewire, *args, *one)["held_out"]["stamps"] == []  # the same variant again
    two = ("--range", "fast=8,9", "--range", "slow=60")
    refused = tapewire(*map(str, (*args, *two)))
    assert refused.code == 3
    assert "is spent" in refused.err
    assert "--judge-again" in refused.err
    try:
        act_as("mcp desk")  # as the process of an assistant's job does
        refused = tapewire(*map(str, (*args, *two)), "--judge-again")
    finally:
        act_as("cli")
    assert refused.code == 3
    assert "by cli" in refused.err
    assert "--judge-again" not in refused.err
    again = answer(tapewire, *args, *two, "--judge-again")
    assert again["held_out"]["stamps"] == ["HELD-OUT TIME SPENT: JUDGED BEFORE"]
    assert again["held_out"]["evidence"]["trials"] == 2
    assert again["tries"] > again["trials"]  # those of the first search count, too
    with closing(sqlite3.connect("var/tapewire.db")) as store:
        assert store.execute("SELECT count(DISTINCT variant) FROM tries WHERE held_out").fetchone() == (2,)


@pytest.mark.slow
def test_held_out_time_is_spent_once_its_judgement_begins(
    tapewire: Tapewire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)
    args = ("tune", "--klines", bars, "--strategy", "sma_cross", "--holdout", "15d", "--trials", 1)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agent.research.walk_forward.assess", interrupt)  # the fold's run is recorded by then
        ended = tapewire(*map(str, args), "--range", "fast=4", "--range", "slow=30")
        assert ended.code != 0
    refused = tapewire(*map(str, args), "--range", "fast=8", "--range", "slow=60")
    assert (refused.code, "is spent" in refused.err) == (3, True)
    same = answer(tapewire, *args, "--range", "fast=4", "--range", "slow=30")
    assert same["held_out"]["stamps"] == []
    (run,) = [one for one in answer(tapewire, "tries", same["held_out"]["id"])["tries"] if one["held_out"]]
    assert (run["evaluations"], run["sharpe"] is not None) == (2, True)
