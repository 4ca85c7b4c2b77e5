"""Every table that lists kinds of events or decisions has all of them."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec
import pytest

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import PRIORITY, Command, Decision, Event, Kline, kind_of
from agent.core.sinks import ListSink
from agent.core.strategy import Strategy
from agent.dashboard.dashboard_state import DashboardState
from agent.live.formatting import describe
from agent.live.services.mqtt.mqtt_messages import BRANCHES
from agent.store import tables
from agent.store.journal import decode, encode
from tests.store.store_samples import ONE_OF_EACH

EVENTS, KINDS = set(get_args(Event)), set(get_args(Decision))
UNPUBLISHED = {"Cancel", "Amend", "Plot"}
"""Decisions that MQTT leaves out: the order updates that follow cancels and amends state their result, and
plots are for charts.
"""


ON_THE_WIRE = {
    "Kline",
    "News",
    "Sentiment",
    "Funding",
    "Gap",
    "OrderUpdate",
    "Fill",
    "Settlement",
    "Account",
    "Command",
    "PastBars",
}
"""Names in journals of all versions, which stay when classes are renamed."""


def test_every_event_has_a_handler_and_a_priority() -> None:
    engine = Engine(Config(), Strategy(), ListSink(), run_id="run")
    assert set(engine._handlers) | {Kline} == EVENTS  # bars have a faster path
    assert set(PRIORITY) == EVENTS
    assert len(set(PRIORITY.values())) == len(PRIORITY)


def test_every_event_keeps_its_name_in_the_journal() -> None:
    union: Any = msgspec.inspect.type_info(Event)
    assert {one.tag for one in union.types} == {kind_of(kind) for kind in EVENTS} == ON_THE_WIRE
    assert decode(encode(Command("pause", 1, 1))) == Command("pause", 1, 1)


def test_every_decision_has_a_table_with_its_fields() -> None:
    assert set(tables.DECISIONS) == KINDS
    for kind, table in tables.DECISIONS.items():
        assert [column.name for column in table.columns][4:] == list(kind.__struct_fields__)
    assert {type(one) for one in ONE_OF_EACH} == KINDS


def test_every_decision_is_published_or_left_out_on_purpose() -> None:
    assert {kind.__name__ for kind in KINDS - set(BRANCHES)} == UNPUBLISHED


@pytest.mark.parametrize("decision", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_every_decision_has_a_description(decision: Decision) -> None:
    assert len(describe(decision)) > 1


def test_the_dashboard_takes_every_decision_in() -> None:
    source = inspect.getsource(DashboardState.decision)
    assert [kind.__name__ for kind in KINDS if f"case {kind.__name__}()" not in source] == []
