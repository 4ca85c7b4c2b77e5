"""The event study of `bench/event_study.py`: figures derived by hand from short series of prices."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.events import DAY_MS, MINUTE_MS, News
from agent.core.news_kinds import NEWS_KINDS
from bench.event_study import (
    COLUMNS,
    HORIZONS,
    Observations,
    Opens,
    first_of_stories,
    judge_kinds,
    moves_around,
    observe,
    publishers_only,
    read_opens,
    score_titles,
    study,
)
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore
from models.sentiment.serve.scorer import Scorer

DAY = 1_440
UP, DOWN = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05)


def news(number: int, title: str, minute: float) -> News:
    ts = int(minute * MINUTE_MS)
    return News(id=str(number), ts=ts, available_at=ts + MINUTE_MS, title=title)


def steps(length: int, jumps: dict[int, float]) -> Opens:
    """Return a price of 100 that moves by so many bps at the open of each given minute."""
    moves = np.zeros(length)
    moves[list(jumps)] = list(jumps.values())
    return Opens(0, 100 * np.exp(np.cumsum(moves) / 1e4))


@pytest.mark.parametrize(
    ("jump", "moved"),
    [
        (40, ""),
        (41, "before"),  # the hour from the open of minute 40 to that of minute 100
        (100, "before"),
        (101, ""),  # published at 100:30 and known at 101:30: nobody could trade it
        (102, ""),  # the first minute that opens afterwards is the entry
        (103, "5m 15m 60m 4h 1d"),
        (107, "5m 15m 60m 4h 1d"),
        (108, "15m 60m 4h 1d"),
        (163, "4h 1d"),
        (1542, "1d"),
        (1543, ""),
    ],
)
def test_a_move_counts_in_the_spans_that_it_falls_into(jump: int, moved: str) -> None:
    opens = steps(3_000, {jump: 12.0})
    published = np.array([int(100.5 * MINUTE_MS)])
    (found,) = moves_around(opens, published, published + MINUTE_MS, drift=0.0)
    expected = [12.0 if column in moved.split() else 0.0 for column in COLUMNS]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_mean_move_of_the_asset_is_subtracted() -> None:
    opens = steps(3_000, dict.fromkeys(range(3_000), 0.5))  # half a bp a minute
    drift = opens.drift(0, 3_000)
    assert drift == pytest.approx(0.5e-4)
    published = np.array([100 * MINUTE_MS])
    (plain,) = moves_around(opens, published, published, drift=0.0)
    assert plain == pytest.approx([30.0, *(minutes / 2 for minutes in HORIZONS.values())])
    (abnormal,) = moves_around(opens, published, published, drift=drift)
    assert abnormal == pytest.approx([0.0] * len(COLUMNS), abs=1e-6)


def test_bars_are_read_by_their_time_and_missing_ones_are_unknown(tmp_path: Path) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=minute) for minute in (0, 1, 3)]
    pq.write_table(pa.table({"open_time": times, "open": [1.0, 2.0, 4.0]}), tmp_path / "k.parquet")
    opens = read_opens(tmp_path / "k.parquet")
    first = int(start.timestamp()) // 60
    found = opens.at(np.arange(first - 1, first + 5))
    assert np.array_equal(found, [np.nan, 1.0, 2.0, np.nan, 4.0, np.nan], equal_nan=True)


def test_only_headlines_of_publishers_are_read(tmp_path: Path) -> None:
    table = pa.table({"title": ["a", "b", "c"], "is_social": [False, True, None]})
    pq.write_table(table, tmp_path / "all.parquet")
    found = publishers_only(tmp_path / "all.parquet", tmp_path / "own.parquet")
    assert pq.read_table(found)["title"].to_pylist() == ["a"]


def test_only_the_first_headline_of_a_story_is_observed() -> None:
    told = [
        news(1, "Exchange Acme halts withdrawals after bitcoin outage", 0),
        news(2, "Acme exchange halts withdrawals after outage of bitcoin", 60),
        news(3, "Miner sells bitcoin", 70),
        news(4, "Exchange Acme halts withdrawals after bitcoin outage", 3 * DAY),  # after story_window
    ]
    assert [item.id for item in first_of_stories(told)] == ["1", "3", "4"]


def test_each_asset_is_observed_with_its_own_answer() -> None:
    opens = {"BTCUSDT": steps(5 * DAY, {200: 4.0}), "ETHUSDT": steps(5 * DAY, {200: -6.0})}
    headlines = [
        news(1, "Money rotates from bitcoin into ether", 190),
        news(2, "Fed holds rates", 191),  # macro: about all, with the headline's own answer
        news(3, "Solana falls", 192),  # not traded
        news(4, "Bitcoin 你好", 193),
        news(5, "Bitcoin slips", 5 * DAY - 100),  # less than a day before the end of the bars
        news(6, "Bitcoin slips", 6 * DAY),  # outside of the window
    ]
    rotation = HeadlineScore(
        0.2, 0.6, 0.2, assets=(AssetScore("BTC", *DOWN), AssetScore("ETH", *UP)), kind="price"
    )
    abstained = HeadlineScore(1 / 3, 1 / 3, 1 / 3, abstained=True, reason="not English")
    scores = [rotation, HeadlineScore(*UP, kind="macro"), HeadlineScore(*DOWN), abstained]
    scores += [HeadlineScore(*DOWN)] * 2
    rows, counts = observe(headlines, scores, opens, (0, 5 * DAY * MINUTE_MS))
    seen = zip(rows.asset, rows.label, rows.confidence, rows.kind, strict=True)
    assert [(str(asset), int(label), float(sure), str(kind)) for asset, label, sure, kind in seen] == [
        ("BTC", 0, 0.9, "price"),
        ("ETH", 2, 0.9, "price"),
        ("BTC", 2, 0.9, "macro"),
        ("ETH", 2, 0.9, "macro"),
    ]
    assert counts == {"headlines": 5, "abstained": 1, "about no traded asset": 1, "without bars around": 1}
    # 4 and −6 bps at minute 200, less the mean move of 7,199 minutes
    assert rows.moves[:2, COLUMNS.index("15m")] == pytest.approx([4.0, -6.0], abs=0.02)


def observations(days: int, rows: list[tuple[str, int, float, str, float]]) -> Observations:
    """Return the same rows (asset, label, confidence, kind, bps in every column) on each of so many days."""
    every = [(day * DAY_MS + 1, *row) for day in range(days) for row in rows]
    published, asset, label, confidence, kind, moves = zip(*every, strict=True)
    return Observations(
        np.array(published),
        np.array(asset),
        np.array(label),
        np.array(confidence),
        np.array(kind),
        np.repeat(np.array(moves)[:, None], len(COLUMNS), axis=1),
    )


def test_means_are_taken_by_asset_label_and_kind_in_the_direction_of_the_answer() -> None:
    rows = [
        ("BTC", 2, 0.9, "price", 10.0),
        ("BTC", 0, 0.9, "price", -4.0),
        ("ETH", 2, 0.9, "access", 1.0),
        ("ETH", 1, 0.9, "other", 100.0),  # neutral: no direction
        ("BTC", 2, 0.5, "price", -70.0),  # below the threshold
    ]
    found = study(observations(12, rows))
    sure = found["0.7"]
    cells = {name: cell["mean"][0] for name, cell in sure["by_asset"]["all"].items()}
    assert cells == {
        "bearish": -4.0,
        "neutral": 100.0,
        "bullish": 5.5,
        "in direction": 5.0,  # (10 + 4 + 1) / 3
        "bullish minus bearish": 9.5,
    }
    assert sure["by_asset"]["BTC"]["in direction"]["mean"][0] == 7.0
    assert sure["by_asset"]["ETH"]["in direction"]["mean"][0] == 1.0
    assert sure["by_kind"]["price"]["in direction"]["headlines"] == 24
    assert sure["by_kind"]["access"]["in direction"]["mean"][0] == 1.0
    assert found["0.0"]["by_kind"]["price"]["in direction"]["mean"][0] == pytest.approx(-56 / 3, abs=0.01)
    # All days are alike, so every resample has the same mean
    cell = sure["by_asset"]["all"]["in direction"]
    assert (cell["days"], cell["low"], cell["high"]) == (12, cell["mean"], cell["mean"])


def test_a_few_days_have_no_interval() -> None:
    found = study(observations(9, [("BTC", 2, 0.9, "price", 10.0)]))
    cell = found["0.7"]["by_asset"]["all"]["in direction"]
    assert cell["mean"][0] == 10.0
    assert "low" not in cell


def test_days_and_not_headlines_are_resampled() -> None:
    """One day of a hundred headlines at +100 among 19 days of one at 0 may be drawn not at all."""
    busy = observations(1, [("BTC", 2, 0.9, "price", 100.0)] * 100)
    calm = observations(19, [("BTC", 2, 0.9, "price", 0.0)])
    moved = calm._replace(published=calm.published + DAY_MS)
    rows = Observations(*(np.concatenate(pair) for pair in zip(busy, moved, strict=True)))
    cell = study(rows)["0.7"]["by_asset"]["all"]["in direction"]
    assert cell["mean"][0] == pytest.approx(100 * 100 / 119, abs=0.01)
    assert cell["low"][0] == 0.0


def half(mean: float, low: float, high: float, *, days: int = 100) -> dict[str, Any]:
    """Return a study in which each kind has these figures at each horizon."""
    cell: dict[str, Any] = {"headlines": 500, "days": days, "mean": [mean] * len(COLUMNS)}
    if days >= 10:
        cell |= {"low": [low] * len(COLUMNS), "high": [high] * len(COLUMNS)}
    return {"0.7": {"by_kind": {kind: {"in direction": cell} for kind in NEWS_KINDS}}}


@pytest.mark.parametrize(
    ("first", "second", "fails", "holds", "votes"),
    [
        (half(-1, -3, 1), half(-0.5, -3, 2), True, True, False),
        (half(-1, -3, 1), half(0.5, -3, 4), True, False, True),  # the second half contradicts
        (half(-1, -3, 4.1), half(-1, -3, 1), False, True, True),  # may earn the cheapest round trip
        (half(0.1, -3, 3), half(-1, -3, 1), False, True, True),  # moved in the direction of the answer
        (half(-1, -3, 1, days=9), half(-1, -3, 1), False, False, True),  # too few days
    ],
)
def test_a_kind_stops_voting_by_the_rule(
    first: dict[str, Any], second: dict[str, Any], fails: bool, holds: bool, votes: bool
) -> None:
    found = judge_kinds(first, second)
    assert set(found) == set(NEWS_KINDS)
    assert {(one["fails_first"], one["holds"], one["votes"]) for one in found.values()} == {
        (fails, holds, votes)
    }


def test_an_interrupted_scoring_continues_where_it_stopped(
    tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    model, store = write_reader(tmp_path / "model"), tmp_path / "judge.db"
    titles = [f"bitcoin soars record {number}" for number in range(600)]

    def interrupt(done: int, _total: int) -> None:
        if done == 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_titles(model, titles, ("BTCUSDT",), store, interrupt)
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("select count(*) from scores").fetchone() == (512,)
        database.execute("update scores set kind = 'macro'")  # to tell kept scores from new ones
        database.commit()
    scores, facts = score_titles(model, titles, ("BTCUSDT",), store, lambda _done, _total: None)
    assert [score.kind for score in scores] == ["macro"] * 512 + ["price"] * 88
    assert scores[-1] == Scorer.load(model).score(titles[-1:])[0]
    assert facts["reads_assets"] is True
