"""The first differing decision: order ids are those of each run, drawing decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal as D
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.analysis.comparison.first_difference import first_difference
from agent.core.events import (
    Cancel,
    Decision,
    Direction,
    Fill,
    Notice,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Plot,
    Prediction,
    Side,
    Signal,
)
from agent.store.queries import RecordedDecision

SIGNAL = Signal("BTCUSDT", 1, Direction.BUY, 0.9, 0.05, 0.05, 0.9, True, ("n1",))
PREDICTION = Prediction("BTCUSDT", 1, 0.2, 0.3, 0.5, "m", nan)


def life(run: str) -> list[tuple[int, Decision]]:
    """A buy with its stop, as the run with the id `run` records it; ids have no other meaning."""
    entry, stop = f"tw-{run}{'0' * 31}", f"tw-{run}{'1' * 31}"
    return [
        (3, SIGNAL),
        (3, PREDICTION),
        (3, Order(entry, "BTCUSDT", 3, Side.BUY, OrderType.MARKET, D("0.1"), reason="why")),
        (4, Fill(f"{entry}.0", entry, "BTCUSDT", 4, 4, Side.BUY, D("0.1"), D(100), D("0.01"))),
        (4, OrderUpdate(entry, "BTCUSDT", 4, 4, OrderStatus.FILLED, D("0.1"))),
        (4, Order(stop, "BTCUSDT", 4, Side.SELL, OrderType.STOP, D("0.1"), trigger=D(90), oco=entry)),
        (7, Cancel(stop, "BTCUSDT", 7, f"as {entry} was")),
    ]


def recorded(decisions: Sequence[tuple[int, Decision]]) -> list[RecordedDecision]:
    return [RecordedDecision(at, seq, b"", one) for at, (seq, one) in enumerate(decisions, 1)]


def test_the_same_decisions_with_other_ids_are_equal() -> None:
    found, counts = first_difference(recorded(life("a")), recorded(life("b")))
    assert found is None
    assert (counts.a, counts.b, counts.equal) == (7, 7, 7)


def test_plots_and_notices_are_left_out() -> None:
    drawn = [(1, Plot("BTCUSDT", 1, "line", 1.0)), *life("b"), (9, Notice(9, "info", "hello"))]
    found, counts = first_difference(recorded(life("a")), recorded(drawn))
    assert found is None
    assert counts.b == 7


@pytest.mark.parametrize(
    ("at", "changes", "fields"),
    [
        (0, {"confidence": 0.8}, [("confidence", 0.9, 0.8)]),
        (1, {"up": 0.4}, [("up", 0.5, 0.4)]),
        (2, {"qty": D("0.2"), "stop": D(95)}, [("qty", D("0.1"), D("0.2")), ("stop", None, D(95))]),
        (2, {"trail": D(5)}, [("trail", None, D(5))]),  # a field that is UNSET otherwise
        (3, {"fee": D("0.02")}, [("fee", D("0.01"), D("0.02"))]),
        (5, {"oco": ""}, [("oco", "#1", "")]),
        (6, {"reason": "why not"}, [("reason", "as #1 was", "why not")]),
    ],
)
def test_the_first_difference_names_its_fields(
    at: int, changes: dict[str, object], fields: list[tuple[str, object, object]]
) -> None:
    other = life("b")
    seq, decision = other[at]
    other[at] = seq, replace(decision, **changes)
    found, counts = first_difference(recorded(life("a")), recorded(other))
    assert found is not None
    assert (found.number, found.event_seq, counts.equal) == (at + 1, seq, at)
    assert [(one.name, one.a, one.b) for one in found.fields] == fields
    assert found.a == life("a")[at][1]
    assert found.b == other[at][1]


@pytest.mark.parametrize(
    ("a", "b", "event", "kinds"),
    [
        ([0, 1, 2], [0, 1], 3, ("Order", "")),  # b ends
        ([0, 6], [0, 3], 4, ("", "Fill")),  # b decides on event 4, a not before event 7
        ([0, 6], [0, 2, 6], 3, ("", "Order")),
        ([2], [0], 3, ("Order", "Signal")),  # different kinds on one event
    ],
)
def test_a_decision_that_only_one_run_made(
    a: list[int], b: list[int], event: int, kinds: tuple[str, str]
) -> None:
    one, other = ([life(run)[at] for at in chosen] for run, chosen in (("a", a), ("b", b)))
    found, _ = first_difference(recorded(one), recorded(other))
    assert found is not None
    assert (found.event_seq, (found.kind_a, found.kind_b)) == (event, kinds)
    assert (found.a is None, found.b is None) == (not kinds[0], not kinds[1])


def test_an_order_that_belongs_to_another_one_differs() -> None:
    """Both runs place two orders and cancel one of them, but not the same one."""
    lives = []
    for run, cancelled in (("a", 2), ("b", 5)):
        own = life(run)
        order = own[cancelled][1]
        assert isinstance(order, Order)
        lives.append([own[2], own[5], (8, Cancel(order.id, "BTCUSDT", 8))])
    found, _ = first_difference(recorded(lives[0]), recorded(lives[1]))
    assert found is not None
    assert [(one.name, one.a, one.b) for one in found.fields] == [("order_id", "#1", "#2")]


@given(ids=st.lists(st.integers(0, 2**128 - 1), min_size=8, max_size=8, unique=True), kept=st.data())
def test_any_renaming_of_orders_is_equal(ids: list[int], kept: st.DataObject) -> None:
    names = [f"tw-{number:032x}" for number in ids]
    steps = kept.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20))

    def decided(own: Sequence[str]) -> list[tuple[int, Decision]]:
        return [
            (at, Cancel(own[which], "BTCUSDT", at) if at % 3 else _order(own[which], at))
            for at, which in enumerate(steps)
        ]

    found, counts = first_difference(recorded(decided(names[:4])), recorded(decided(names[4:])))
    assert found is None
    assert counts.equal == len(steps)


def _order(order_id: str, at: int) -> Order:
    return Order(order_id, "BTCUSDT", at, Side.BUY, OrderType.MARKET, D(1))
