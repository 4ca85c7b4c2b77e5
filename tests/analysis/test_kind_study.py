"""Price moves by kind of news, on prices whose moves are known."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.daily import Closes
from agent.analysis.event_study import Headlines, headlines_of
from agent.analysis.kind_study import HORIZONS, KindStudy, horizons_of, kind_study
from agent.analysis.report.descriptions import descriptions_of
from agent.analysis.report.run_evidence import evidence_of
from agent.config import Config
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from tests.analysis.test_event_study import START, closes_of
from tests.analysis.test_run_evidence import run_record

DOWN, FLAT, UP = 0, 1, 2


def headlines_after(rows: list[tuple[int, int]], symbol: str = "X") -> Headlines:
    """Return headlines, each known a minute after the close of a bar, of a predicted class."""
    known = [(START + (bar + 1) * HOUR_MS + MINUTE_MS, predicted) for bar, predicted in rows]
    return headlines_of([(ts, symbol, float(predicted - 1), predicted) for ts, predicted in known])


def studied(
    headlines: Headlines, kinds: list[str], closes: dict[str, Closes], interval: int = HOUR_MS
) -> KindStudy:
    found = kind_study(headlines, np.array(kinds, np.str_), 0, closes, interval)
    assert found is not None
    return found


def test_moves_are_in_the_direction_of_the_answer() -> None:
    """Log prices by hand; hacks are followed, price reports come after their move, and fall back.

    The price falls by 0.04 in the hour after the bearish hack (bar 41), had risen by 0.02 in the hour before
    the bullish price report (bar 140), and falls by 0.01 two hours after it (bar 142). It ends 0.03 lower
    than it began, which is 0.03 / 199 a bar over the 199 steps between 200 closes.
    """
    steps = np.zeros(200)
    steps[41], steps[140], steps[142] = -0.04, 0.02, -0.01
    drift = -0.03 / 199
    found = studied(headlines_after([(40, DOWN), (140, UP)]), ["failure", "price"], {"X": closes_of(steps)})
    assert list(found.kinds) == ["failure", "price"]
    expected = {
        "failure": {-1: drift, 1: 0.04 + drift, 4: 0.04 + 4 * drift, 24: 0.04 + 24 * drift},
        "price": {-1: 0.02 - drift, 1: -drift, 4: -0.01 - 4 * drift, 24: -0.01 - 24 * drift},
    }
    for kind, path in found.kinds.items():
        assert (path.headlines, path.directed) == (1, 1)
        assert [move.horizon // HOUR_MS for move in path.moves] == [-1, 1, 4, 24]
        for move in path.moves:
            assert move.mean is not None
            assert move.mean.value == pytest.approx(expected[kind][move.horizon // HOUR_MS], abs=1e-12)
            assert (move.mean.low, move.mean.high) == pytest.approx((move.mean.value,) * 2)  # one day only


def test_the_mean_is_over_headlines_and_over_symbols_with_their_own_drift() -> None:
    """After one hour: X moves by 0.03 and 0 after its two headlines, Y by 0.06 against its answer."""
    x, y = np.zeros(100), np.zeros(100)
    x[31], y[31] = 0.03, 0.06
    one, other = headlines_after([(30, UP), (60, UP)]), headlines_after([(30, DOWN)], "Y")
    both = Headlines(*(np.concatenate(columns) for columns in zip(one, other, strict=True)))
    found = studied(both, ["access"] * 3, {"X": closes_of(x), "Y": closes_of(y)})
    move = found.kinds["access"].moves[1]
    assert move.mean is not None
    mean = ((0.03 - 0.03 / 99) + (0 - 0.03 / 99) - (0.06 - 0.06 / 99)) / 3
    assert (move.horizon, move.events, move.days) == (HOUR_MS, 3, 2)
    assert move.mean.value == pytest.approx(mean, abs=1e-12)


def test_neutral_answers_and_short_windows_are_counted_and_take_part_in_no_move() -> None:
    """The last headline has 3 bars after it; the first has none before it."""
    rows = [(0, UP), (50, FLAT), (96, UP)]
    found = studied(headlines_after(rows), ["macro"] * 3, {"X": closes_of(np.zeros(100))})
    path = found.kinds["macro"]
    assert (path.headlines, path.directed) == (3, 2)
    counts = {move.horizon // HOUR_MS: move.events for move in path.moves}
    assert counts == {-1: 1, 1: 2, 4: 1, 24: 1}
    only_flat = studied(headlines_after([(50, FLAT)]), ["macro"], {"X": closes_of(np.zeros(100))})
    assert [move.mean for move in only_flat.kinds["macro"].moves] == [None] * 4


def test_kinds_are_in_their_order_and_headlines_without_one_come_last() -> None:
    rows = [(10 + number, UP) for number in range(5)]
    kinds = ["", "opinion", "a kind of a later version", "failure", "opinion"]
    found = studied(headlines_after(rows), kinds, {"X": closes_of(np.zeros(100))})
    assert [(kind, path.headlines) for kind, path in found.kinds.items()] == [
        ("failure", 1),
        ("opinion", 2),
        ("a kind of a later version", 1),
        ("", 1),
    ]
    assert kind_study(headlines_after(rows), np.array([""] * 5), 0, {}, HOUR_MS) is None
    assert kind_study(headlines_of([]), np.array([], np.str_), 0, {}, HOUR_MS) is None


def test_the_interval_has_its_coverage_although_headlines_come_in_bursts() -> None:
    """Twenty headlines share one move: a bootstrap over headlines would give much too narrow intervals."""
    covered = 0
    for seed in range(60):
        steps = np.random.default_rng(seed).normal(0, 0.01, 24 * 60)
        rows = [(bar, UP) for bar in range(12, 24 * 58, 24) for _ in range(20)]
        found = studied(headlines_after(rows), ["price"] * len(rows), {"X": closes_of(steps)})
        move = found.kinds["price"].moves[2]
        assert move.mean is not None
        covered += move.mean.low <= 0 <= move.mean.high
    assert covered >= 50  # of 60, at 95 %


@pytest.mark.parametrize(
    ("interval", "horizons"),
    [
        (MINUTE_MS, list(HORIZONS)),
        (HOUR_MS, [-HOUR_MS, HOUR_MS, 4 * HOUR_MS, DAY_MS]),
        (DAY_MS, [DAY_MS]),
        (7 * DAY_MS, [-7 * DAY_MS, 7 * DAY_MS]),
    ],
)
def test_horizons_are_whole_bars(interval: int, horizons: list[int]) -> None:
    assert horizons_of(interval) == horizons


@pytest.mark.parametrize(
    ("days", "jump", "said"),
    [
        (120, 0.02, "moves after headlines are distinguishable from zero: failure (1h, 4h, 1d)."),
        (120, 0.0, "After no kind of news is the price move distinguishable from zero."),
        (8, 0.02, "No kind has headlines on 10 days, too few to draw a conclusion."),
    ],
)
def test_the_evidence_tells_a_kind_that_pays_from_noise(days: int, jump: float, said: str) -> None:
    given = run_record(days, jump=jump)
    count = len(given.headlines.ts)
    evidence = evidence_of(given._replace(kinds=["failure"] * count, own=count // 4))
    share, conclusion = descriptions_of(evidence)["kinds"]
    assert evidence.kinds is not None
    assert evidence.kinds.kinds["failure"].votes
    assert share.startswith(f"Of {count} scores, one for each headline and traded symbol")
    assert f" {count // 4} (25" in share
    assert said in conclusion
    assert "kinds" not in descriptions_of(evidence_of(given))
    assert evidence_of(given).kinds is None


def test_headlines_of_a_kind_that_may_not_vote_are_stated() -> None:
    given = run_record(30)
    config = Config.model_validate({"market": {"interval": "1h"}, "signals": {"kinds": ["failure"]}})
    kinds = ["price", "failure", "opinion", *[""] * (len(given.headlines.ts) - 3)]
    evidence = evidence_of(given._replace(config=config, kinds=kinds))
    assert evidence.kinds is not None
    voting = {kind: path.votes for kind, path in evidence.kinds.kinds.items()}
    assert voting == {"failure": True, "price": False, "opinion": False, "": True}
    said = "2 scores did not vote, because signals.kinds leaves out price, opinion."
    assert descriptions_of(evidence)["kinds"][1] == said
