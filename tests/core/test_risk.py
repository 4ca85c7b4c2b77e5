"""Risk limits: what each refuses, and how the state changes."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from agent.config import RiskConfig
from agent.core.events import DAY_MS, MINUTE_MS, RiskEvent, RiskState
from agent.core.risk import RiskManager
from tests.support.market import T0

ACTIVE, REDUCING, HALTED = RiskState.ACTIVE, RiskState.REDUCING, RiskState.HALTED


def manager(**limits: Any) -> tuple[RiskManager, list[RiskEvent]]:
    emitted: list[RiskEvent] = []
    return RiskManager(RiskConfig(**limits), emitted.append), emitted


def allows(risk: RiskManager, now: int = T0, *, reduces: bool = False, **more: float) -> bool:
    values: dict[str, Any] = {
        "notional": 100.0,
        "position_after": 100.0,
        "gross_after": 100.0,
        "equity": 1_000.0,
        "data_age": 0,
    } | more
    return risk.allows(now, "BTCUSDT", reduces=reduces, **values)


@pytest.mark.parametrize(
    ("limits", "values", "rule"),
    [
        ({"max_order": 0.05}, {}, "max_order"),
        ({"max_position": 0.3}, {"position_after": 301.0}, "max_position"),
        ({"max_leverage": 0.5}, {"gross_after": 501.0}, "max_leverage"),
        ({"stale_after": "5m"}, {"data_age": 5 * MINUTE_MS + 1}, "stale_after"),
        ({}, {"equity": 0.0}, "equity"),
    ],
)
def test_each_limit_records_its_refusal_once_and_passes_reductions(
    limits: dict[str, Any], values: dict[str, float], rule: str
) -> None:
    risk, emitted = manager(**limits)
    assert not allows(risk, **values)
    assert not allows(risk, **values)
    assert [event.rule for event in emitted] == [rule]
    assert allows(risk, reduces=True, **values)


@pytest.mark.parametrize(
    ("equities", "moved", "state", "detail"),
    [
        # A first equity that isn't positive, as that of an account that owes its fees
        ([0.0], 0.0, HALTED, "equity 0.00; its peak is 0.00"),
        ([-5.0], 0.0, HALTED, "equity -5.00; its peak is 0.00"),
        # All is withdrawn, and the open position then loses
        ([1_000.0, -1.0], -1_000.0, HALTED, "equity -1.00; its peak is 0.00"),
        ([1_000.0, 400.0], -500.0, HALTED, "equity 400.00 is 20.0% below its peak"),
    ],
)
def test_a_peak_that_is_not_positive_halts_in_words_without_a_share(
    equities: list[float], moved: float, state: RiskState, detail: str
) -> None:
    risk, emitted = manager(max_drawdown=0.2, max_daily_loss=0.1)
    for number, equity in enumerate(equities):
        if number:
            risk.on_transfer(moved)
        risk.on_equity(T0 + number * MINUTE_MS, equity)
    assert risk.state is state
    assert emitted[-1].detail == detail


def test_a_refill_of_an_account_that_owes_moves_the_start_of_the_day() -> None:
    risk, emitted = manager(max_drawdown=0.5, max_daily_loss=0.1)
    risk.on_equity(T0, -5.0)
    risk.command(T0, ACTIVE, "operator")
    risk.on_equity(T0 + 1, -5.0)
    risk.command(T0 + 2, ACTIVE, "operator")
    risk.on_transfer(1_005.0)  # before the first equity after the resume: nothing is to move
    risk.on_equity(T0 + 3, 1_000.0)
    risk.on_transfer(1_000.0)
    risk.on_equity(T0 + 4, 1_801.0)
    assert risk.state is ACTIVE
    risk.on_equity(T0 + 5, 1_800.0)  # 10 % below 2,000
    assert (risk.state, emitted[-1].rule) == (REDUCING, "max_daily_loss")


def test_a_refill_after_the_first_equity_of_a_resume_counts_too() -> None:
    risk, _ = manager(max_drawdown=0.5, max_daily_loss=0.1)
    risk.command(T0, ACTIVE, "operator")
    risk.on_equity(T0, 0.0)  # halts: nothing is left
    assert risk.state is HALTED
    risk.on_transfer(1_000.0)
    risk.on_equity(T0 + 1, 1_000.0)
    assert risk.state is HALTED  # until the operator resumes
    assert (risk.floor, risk.ceiling) == (-inf, 1_000.0)  # a halt comes once; the refill is the peak


def test_equity_is_looked_at_only_where_a_limit_of_the_state_can_be_reached() -> None:
    risk, emitted = manager(max_drawdown=0.5, max_daily_loss=0.1, max_abstain_rate=0.5)
    risk.on_equity(T0, 1_000.0)
    assert risk.floor == 900.0
    risk.on_equity(T0 + 1, 900.0)
    assert (risk.state, risk.floor) == (REDUCING, 500.0)  # the day's loss leads to nothing more
    risk.on_equity(T0 + 2, 500.0)
    assert (risk.state, risk.floor) == (HALTED, -inf)
    risk.command(T0 + 3, ACTIVE, "operator")
    risk.on_equity(T0 + 4, 500.0)
    assert (risk.state, risk.floor) == (ACTIVE, 450.0)
    risk.on_abstain_rate(T0 + 5, 0.6)
    risk.on_equity(T0 + 6, 440.0)  # below the day's limit, but the model's abstentions reduce already
    risk.on_abstain_rate(T0 + 7, 0.4)
    assert (risk.state, risk.floor) == (ACTIVE, inf)
    risk.on_equity(T0 + 8, 440.0)
    assert (risk.state, emitted[-1].rule, risk.floor) == (REDUCING, "max_daily_loss", 250.0)


def test_data_are_stale_if_overdue_by_more_than_the_limit() -> None:
    risk, _ = manager(stale_after="5m")
    assert allows(risk, data_age=5 * MINUTE_MS)
    assert not allows(risk, data_age=5 * MINUTE_MS + 1)


def test_an_order_at_the_limit_passes() -> None:
    risk, emitted = manager(max_order=0.1, max_position=0.1, max_leverage=0.1)
    assert allows(risk)
    assert emitted == []


def test_orders_are_counted_over_a_sliding_minute() -> None:
    risk, emitted = manager(max_orders_per_minute=2)
    assert [allows(risk, T0 + s * 1000) for s in (0, 30, 59, 60, 61, 90)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert [event.rule for event in emitted] == ["max_orders_per_minute"] * 2


@pytest.mark.parametrize(
    ("equities", "states"),
    [
        ([1000, 960, 951, 949, 940], [ACTIVE, ACTIVE, ACTIVE, REDUCING, REDUCING]),
        ([1000, 2000, 1910, 1500], [ACTIVE, ACTIVE, ACTIVE, HALTED]),
        ([1000, 740, 2000], [ACTIVE, HALTED, HALTED]),
    ],
    ids=["daily loss", "drawdown", "a halt stays"],
)
def test_losses_change_the_state(equities: list[float], states: list[RiskState]) -> None:
    risk, _ = manager(max_daily_loss=0.05, max_drawdown=0.25)
    seen = []
    for n, equity in enumerate(equities):
        risk.on_equity(T0 + n * MINUTE_MS, equity)
        seen.append(risk.state)
    assert seen == states


def test_a_daily_loss_ends_with_the_day_and_a_drawdown_with_a_resume() -> None:
    risk, emitted = manager(max_daily_loss=0.05, max_drawdown=0.25)
    risk.on_equity(T0, 1000)
    risk.on_equity(T0 + MINUTE_MS, 940)
    assert not allows(risk)
    risk.on_equity(T0 + DAY_MS, 940)
    assert risk.state is ACTIVE
    assert allows(risk)
    risk.on_equity(T0 + 2 * DAY_MS, 700)
    assert risk.state is HALTED
    risk.on_equity(T0 + 3 * DAY_MS, 700)
    assert risk.state is HALTED
    risk.command(T0 + 3 * DAY_MS + 1, ACTIVE, "an operator")
    risk.on_equity(T0 + 3 * DAY_MS + MINUTE_MS, 700)
    assert risk.state is ACTIVE
    assert [(e.state, e.rule) for e in emitted if e.rule != "state REDUCING"] == [
        (REDUCING, "max_daily_loss"),
        (ACTIVE, "max_daily_loss"),
        (HALTED, "max_drawdown"),
        (ACTIVE, "command"),
    ]


def test_only_reductions_pass_while_the_model_abstains_too_often() -> None:
    risk, _ = manager(max_abstain_rate=0.5)
    risk.on_abstain_rate(T0, 0.6)
    assert risk.state is REDUCING
    risk.on_abstain_rate(T0, 0.4)
    assert risk.state is ACTIVE


def test_floor_and_ceiling_bound_the_equity_without_consequences() -> None:
    """The engine calls `on_equity` only outside these bounds."""
    risk, _ = manager(max_daily_loss=0.05, max_drawdown=0.25)
    risk.on_equity(T0, 1000)
    assert (risk.floor, risk.ceiling) == (950, 1000)


def test_an_older_record_allows_only_reductions_until_a_resume() -> None:
    risk, emitted = manager()
    risk.on_older_record(T0, "4 events are missing")
    assert (risk.state, risk.rule, emitted[-1].detail) == (REDUCING, "older record", "4 events are missing")
    risk.on_equity(T0 + DAY_MS, 1_000.0)
    risk.on_equity(T0 + 2 * DAY_MS, 1_000.0)  # a new day or a matching account does not end it
    risk.on_drift(T0 + 2 * DAY_MS, "")
    risk.on_abstain_rate(T0 + 2 * DAY_MS, 0.0)
    assert not allows(risk, T0 + 2 * DAY_MS)
    risk.command(T0 + 2 * DAY_MS, ACTIVE, "an operator")
    assert allows(risk, T0 + 2 * DAY_MS)


def test_an_older_record_does_not_loosen_a_halt() -> None:
    risk, emitted = manager()
    risk.kill(T0, "person")
    risk.on_older_record(T0, "4 events are missing")
    assert (risk.state, risk.rule) == (HALTED, "kill")
    assert emitted[-1].detail == "older record: 4 events are missing"
