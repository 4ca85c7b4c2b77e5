"""Which bars a live run reads before its first one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.core.intervals import WEEK_MS
from agent.live.market_data.warm_up_plan import WarmUpPlan


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = utc("2025-03-05T10:44:00")  # a Wednesday

CASES = {
    "nothing declared": ({}, "2025-03-05T07:24:00", {}),
    "less than the configured bars": ({"5m": 3}, "2025-03-05T07:24:00", {}),
    "hours are folded from minutes": ({"1h": 200}, "2025-02-25T02:00:00", {}),
    "days are read directly, minutes since midnight": (
        {"1d": 200},
        "2025-03-05T00:00:00",
        {DAY_MS: "2024-08-17T00:00:00"},
    ),
    "weeks too, minutes since Monday": ({"1w": 10}, "2025-03-03T00:00:00", {WEEK_MS: "2024-12-23T00:00:00"}),
    "each interval by itself": (
        {"1m": 500, "1h": 24, "4h": 300},
        "2025-03-04T10:00:00",
        {4 * HOUR_MS: "2025-01-14T08:00:00"},
    ),
    "months are folded from as many minutes as are read": ({"1M": 3}, "2025-02-19T13:24:00", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_folded_and_what_is_read_directly(case: str) -> None:
    needed, first, higher = CASES[case]
    plan = WarmUpPlan(200, needed)
    assert plan.higher(NOW, MINUTE_MS) == {interval: utc(start) for interval, start in higher.items()}
    assert plan.start(NOW, MINUTE_MS) == utc(first)
