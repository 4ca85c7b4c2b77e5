"""A small share of `python -m tests.kill_states`, and whether its judgement would notice."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from agent.core.events import Order, OrderType, RiskEvent, RiskState, Side
from agent.core.flatten import Flattener
from tests.kill_states import judge, kill_states

ENTRY = Order("tw-1", "BTCUSDT", 1, Side.BUY, OrderType.MARKET, D(1))
ALARM = RiskEvent(1, RiskState.HALTED, "flatten", "x", "BTCUSDT")


async def test_on_paper_no_state_is_silent() -> None:
    assert not (await kill_states(40, 3, ["paper"]))["silent"]


async def test_a_strategy_that_replaces_the_only_order_that_closes_is_noticed(
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
async def test_at_a_venue_with_faults_no_state_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")
    assert not (await kill_states(3, 3, ["sandbox"]))["silent"]


def test_silence_is_what_is_open_without_an_alarm_or_was_opened_after_the_kill() -> None:
    assert judge([], flat=True) == "flat"
    assert judge([], flat=False) == "silent"
    assert judge([ALARM], flat=False) == "alarmed"
    assert judge([ENTRY, ALARM], flat=True) == "silent"
