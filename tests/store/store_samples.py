"""Sample events and decisions: one example of each kind, and hypothesis strategies for all kinds."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from agent.core.events import (
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Direction,
    Event,
    Fill,
    FundingPayment,
    Notice,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Plot,
    Prediction,
    RiskEvent,
    RiskState,
    Side,
    Signal,
    StrategyChange,
)
from agent.store.runs import Run, RunKind

T0 = 1_735_689_600_000  # 2025-01-01T00:00Z

EVENTS: tuple[type[msgspec.Struct], ...] = get_args(Event)
DECISIONS: tuple[type[msgspec.Struct], ...] = get_args(Decision)

ONE_OF_EACH: tuple[Decision, ...] = (
    Signal("BTCUSDT", T0, Direction.BUY, 0.8, 0.1, 0.1, 0.8, True, ("n1", "n2")),
    Prediction("BTCUSDT", T0, 0.2, 0.3, 0.5, "m1"),
    Order(
        "o1",
        "BTCUSDT",
        T0,
        Side.BUY,
        OrderType.LIMIT,
        Decimal("0.010"),
        price=Decimal("43210.10"),
        stop=Decimal("42000"),
    ),
    Amend("o1", "BTCUSDT", T0 + 100, qty=Decimal("0.020"), reason="follows the position"),
    Cancel("o1", "BTCUSDT", T0 + 200, "replaced by a newer target"),
    OrderUpdate("o1", "BTCUSDT", T0 + 250, T0 + 250, OrderStatus.NEW),
    Fill(
        "f1",
        "o1",
        "BTCUSDT",
        T0 + 250,
        T0 + 250,
        Side.BUY,
        Decimal("0.010"),
        Decimal("43210.1"),
        Decimal("0.2376555"),
    ),
    FundingPayment(
        "BTCUSDT", T0 + 300, Decimal("0.0001"), Decimal("0.01"), Decimal("43000"), Decimal("-0.043")
    ),
    CashAdjustment(T0 + 350, "USDT", Decimal("250.00"), "the account's balance when the run began"),
    Plot("BTCUSDT", T0 + 380, "ema", 43_000.25),
    RiskEvent(T0 + 400, RiskState.REDUCING, "max_daily_loss", "5.1 % lost since 00:00 UTC"),
    Notice(T0 + 450, "warning", "the spread is wide"),
    StrategyChange(
        T0 + 500, "/home/me/mine.py", "Mine", "5e" * 32, '{"fast": 5, "band": 0.1}', True, "uid 1000", "slow"
    ),
)


def a_run(run_id: str = "run-1", **values: Any) -> Run:
    """Return a backtest that began at T0."""
    return msgspec.structs.replace(Run(run_id, RunKind.BACKTEST, T0, "sma_cross"), **values)


def pause_commands(count: int, first: int = 0, *, padding: int = 100) -> list[Event]:
    """Return `count` commands, numbered from `first`, whose payloads have `padding` extra characters."""
    return [
        Command("pause", T0 + n, T0 + n, {"why": f"{n} " + "x" * padding}, "test")
        for n in range(first, first + count)
    ]


def _values(hint: Any) -> st.SearchStrategy[Any]:
    scalars: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
        int: st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        bytes: st.binary(max_size=20),
        float: st.floats(),
        Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    }
    if hint in scalars:
        return scalars[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if UnsetType in get_args(hint):
        return st.just(UNSET) | _values(get_args(hint)[0])
    if NoneType in get_args(hint):
        return st.none() | _values(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    match get_args(hint):
        case (item, end) if end is ...:
            return st.lists(_values(item), max_size=3).map(tuple)
        case items if items and get_origin(hint) is tuple:
            return st.tuples(*map(_values, items))
        case (key, value):
            return st.dictionaries(_values(key), _values(value), max_size=3)
    raise TypeError(hint)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Strategy for all values of a kind of event or decision."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: _values(hints[name]) for name in kind.__struct_fields__})


def same(one: Any, other: Any) -> bool:
    """Compare structs and tuples item by item: NaN equals NaN, and decimals must have the same digits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return same(msgspec.structs.astuple(one), msgspec.structs.astuple(other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Decimal):
        return str(one) == str(other)
    return bool(one == other or (one != one and other != other))
