"""A small sample of `python -m tests.kill_states`, and tests of its verdicts."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from agent.core.events import Order, OrderType, RiskEvent, RiskState, Side
from agent.core.flatten import Flattener
from tests.kill_states import judge, kill_states

ENTRY = Order("tw-1", "BTCUSDT", 1, Side.BUY, OrderType.MARKET, D(1))
ALARM = RiskEvent(1, RiskState.HALTED, "flatten", "x", "BTCUSDT")


async def test_no_state_is_silent_on_paper() -> None:
    assert not (await kill_states(40, 3, ["paper"]))["silent"]


async def test_a_strategy_that_replaces_the_only_closing_order_is_detected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pursue = Flattener.pursue

    def once(flattener: Flattener, now: int) -> None:
        if not any(pursuit.tries for pursuit in flattener.pursuits.values()):
            pursue(flattener, now)

    monkeypatch.setattr(Flattener, "ignores", lambda self, symbol, now: False)
    monkeypatch.setattr(Flattener, "pursue", once)
    assert (await kill_states(20, 3, ["paper"]))["silent"]


@pytest.mark.slow
async def test_no_state_is_silent_at_a_venue_with_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")
    assert not (await kill_states(3, 3, ["sandbox"]))["silent"]


def test_a_state_is_silent_if_open_without_an_alarm_or_opened_after_the_kill() -> None:
    assert judge([], flat=True) == "flat"
    assert judge([], flat=False) == "silent"
    assert judge([ALARM], flat=False) == "alarmed"
    assert judge([ENTRY, ALARM], flat=True) == "silent"
