"""The comparison reports the first decision that differs, with its event and both versions."""

from __future__ import annotations

from decimal import Decimal
from math import inf, nan

import msgspec
import pytest
from sqlalchemy import delete, update

from agent.core.errors import StoreError
from agent.core.events import Decision, Order, Prediction, RiskEvent, RiskState
from agent.store.comparison_sink import ComparisonSink, Divergence
from agent.store.database import Database
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from agent.store.tables import DECISIONS, runs
from tests.store.store_samples import ONE_OF_EACH, T0, a_run

Script = list[list[Decision]]
"""The decisions on event 1, on event 2, …"""

SIGNAL, PREDICTION, ORDER, _, _, UPDATE, FILL, PAYMENT, _, _, RISK, *_ = ONE_OF_EACH
SCRIPT: Script = [[SIGNAL], [], [PREDICTION, ORDER], [UPDATE, FILL], [PAYMENT], [RISK], []]
OTHER = RiskEvent(T0, RiskState.HALTED, "max_drawdown")


def record(database: Database, script: Script = SCRIPT, *, complete: bool = True) -> None:
    recorder = Recorder(database, a_run(), batch=1)
    for recorder.event_seq, decisions in enumerate(script, 1):
        for decision in decisions:
            recorder.decision(decision)
    if complete:
        recorder.finish(first_event_at=T0, last_event_at=T0, final_equity=Decimal(1), metrics={})


def replay_in_blocks(database: Database, script: Script) -> Divergence | None:
    """Return the divergence if it is looked for only after all events, as after a slice of bars."""
    comparison = ComparisonSink(database, find_run(database))
    for number, decisions in enumerate(script, 1):
        for decision in decisions:
            comparison.event_seq = number
            comparison.decision(decision)
    comparison.event_seq = len(script)
    return comparison.divergence if comparison.diverged() else comparison.finish()


def replay(database: Database, script: Script) -> tuple[Divergence | None, int]:
    """Return the divergence and the number of the event after which it was detected (0: at the end)."""
    comparison = ComparisonSink(database, find_run(database))
    for comparison.event_seq, decisions in enumerate(script, 1):
        for decision in decisions:
            comparison.decision(decision)
        if comparison.diverged():
            return comparison.divergence, comparison.event_seq
    return comparison.finish(), 0


@pytest.mark.slow
def test_the_same_decisions_on_the_same_events_are_identical(database: Database) -> None:
    record(database)
    assert replay(database, SCRIPT) == (None, 0)


@pytest.mark.parametrize(
    ("script", "divergence"),
    [
        pytest.param([[OTHER], *SCRIPT[1:]], Divergence(1, 1, SIGNAL, OTHER), id="another decision"),
        pytest.param(
            [*SCRIPT[:3], [FILL, UPDATE], *SCRIPT[4:]], Divergence(4, 4, UPDATE, FILL), id="another order"
        ),
        pytest.param([*SCRIPT[:3], [UPDATE], *SCRIPT[4:]], Divergence(5, 4, FILL, None), id="one is missing"),
        pytest.param([SCRIPT[0], [OTHER], *SCRIPT[2:]], Divergence(2, 2, None, OTHER), id="one is new"),
        pytest.param([*SCRIPT[:6], [OTHER]], Divergence(8, 7, None, OTHER), id="one is new at the end"),
        pytest.param(
            [SCRIPT[0], [PREDICTION], [ORDER], *SCRIPT[3:]],
            Divergence(2, 2, None, PREDICTION),
            id="too early",
        ),
        pytest.param([[], [SIGNAL], *SCRIPT[2:]], Divergence(1, 1, SIGNAL, None), id="too late"),
    ],
)
def test_the_first_divergence_is_found_on_its_event(
    database: Database, script: Script, divergence: Divergence
) -> None:
    record(database)
    assert replay(database, script) == (divergence, divergence.event_seq)
    assert replay_in_blocks(database, script) == divergence


def test_if_the_inputs_end_early_the_next_decision_is_missing(database: Database) -> None:
    record(database)
    assert replay(database, SCRIPT[:5]) == (Divergence(7, 6, RISK, None), 0)


def test_a_decimal_with_another_exponent_is_a_different_decision(database: Database) -> None:
    record(database)
    rewritten = msgspec.structs.replace(ORDER, qty=Decimal("0.01"))
    divergence, at = replay(database, [*SCRIPT[:2], [PREDICTION, rewritten], *SCRIPT[3:]])
    assert divergence == Divergence(3, 3, ORDER, rewritten)
    assert at == 3


@pytest.mark.parametrize("value", [nan, -0.0, inf])
def test_nan_infinity_and_negative_zero_compare_as_identical(database: Database, value: float) -> None:
    script: Script = [[Prediction("BTCUSDT", T0, value, value, value)]]
    record(database, script)
    assert replay(database, script) == (None, 0)


def test_a_row_altered_in_the_store_is_a_divergence(database: Database) -> None:
    record(database)
    with database.write() as connection:
        connection.execute(update(DECISIONS[Order]).values(qty=Decimal(5)))
    assert replay(database, SCRIPT)[0] == Divergence(
        3, 3, msgspec.structs.replace(ORDER, qty=Decimal(5)), ORDER
    )


def test_a_row_deleted_from_the_store_is_a_divergence(database: Database) -> None:
    record(database)
    with database.write() as connection:
        connection.execute(delete(DECISIONS[Order]))
    assert replay(database, SCRIPT)[0] == Divergence(3, 3, None, ORDER)


@pytest.mark.parametrize("change", [{"events": 8}, {"chain_head": "00" * 16}])
def test_a_run_whose_row_has_another_head_or_event_count_is_an_error(
    database: Database, change: dict[str, object]
) -> None:
    record(database)
    with database.write() as connection:
        connection.execute(update(runs).values(**change))
    with pytest.raises(StoreError, match="run run-1 states"):
        replay(database, SCRIPT)


def test_a_killed_run_is_compared_up_to_its_last_commit(database: Database) -> None:
    record(database, SCRIPT[:3], complete=False)
    assert replay(database, SCRIPT) == (None, 0)
    assert replay(database, [[SIGNAL], [], [PREDICTION, OTHER]])[0] == Divergence(3, 3, ORDER, OTHER)
