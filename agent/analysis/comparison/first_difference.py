"""The first decision in which two runs differ.

Order ids contain the run's id, so the same decision has another id and another digest in each run. Here each
order id is replaced by the order's number in its run. Plots and notices of the
strategy change no order and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.events import Decision, Fill, Notice, Order, Plot, kind_of
from agent.core.exchange import ID_PREFIX
from agent.store.queries import RecordedDecision

_IDS: Final = ("id", "order_id", "oco")
_ID_IN_TEXT: Final = re.compile(rf"{ID_PREFIX}[0-9a-f]{{16,}}")


class NumberedDecision(NamedTuple):
    """A decision with order ids replaced by `#1`, `#2` …, and the number of its event."""

    event_seq: int
    kind: str
    fields: dict[str, Any]
    decision: Decision  # as it was recorded

    @property
    def content(self) -> tuple[int, str, bytes]:
        """What two equal decisions have in common; NaN equals NaN."""
        return self.event_seq, self.kind, msgspec.msgpack.encode(self.fields)


class FieldDifference(msgspec.Struct, frozen=True):
    """A field in which two decisions of the same kind differ; a value is None if the field is not set."""

    name: str
    a: Any
    b: Any


class DecisionDifference(msgspec.Struct, frozen=True):
    """The first difference: both decisions, None if a run made none, and the fields that differ.

    `number` counts the decisions that are equal before it, plus 1. `event_seq` is the number of the event on
    which they were made; if only one run decided on it, the other is None.
    """

    number: int
    event_seq: int
    kind_a: str
    kind_b: str
    a: Decision | None
    b: Decision | None
    fields: list[FieldDifference]


class DecisionCounts(msgspec.Struct, frozen=True):
    """Number of compared decisions of both runs, without plots and notices."""

    a: int
    b: int
    equal: int  # before the first difference


def numbered(decisions: Iterable[RecordedDecision]) -> Iterator[NumberedDecision]:
    """Yield decisions with order numbers in place of order ids, without plots and notices."""
    numbers: dict[str, str] = {}

    def number(order_id: str) -> str:
        return numbers.setdefault(order_id, f"#{len(numbers) + 1}")

    for item in decisions:
        decision = item.decision
        if isinstance(decision, (Plot, Notice)):
            continue
        fields = {name: getattr(decision, name) for name in decision.__struct_fields__}
        fields = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
        if isinstance(decision, Fill):
            del fields["id"]  # of the execution: a venue chooses it
        if isinstance(decision, Order):
            number(decision.id)  # before the group, which may name a later order
        for name in _IDS:
            if fields.get(name):
                fields[name] = number(fields[name])
        for name, value in fields.items():
            if isinstance(value, str) and ID_PREFIX in value:
                fields[name] = _ID_IN_TEXT.sub(lambda found: number(found[0]), value)
        yield NumberedDecision(item.event_seq, kind_of(decision), fields, decision)


def first_difference(
    a: Iterable[RecordedDecision], b: Iterable[RecordedDecision]
) -> tuple[DecisionDifference | None, DecisionCounts]:
    """Compare the decisions of two runs on the same events; None if all are equal."""
    found: DecisionDifference | None = None
    counts = [0, 0]
    equal = 0
    for one, other in zip_longest(numbered(a), numbered(b)):
        counts[0] += one is not None
        counts[1] += other is not None
        if found is not None:
            continue
        if one is not None and other is not None and one.content == other.content:
            equal += 1
            continue
        found = _difference(equal + 1, one, other)
    return found, DecisionCounts(counts[0], counts[1], equal)


def _difference(
    number: int, a: NumberedDecision | None, b: NumberedDecision | None
) -> DecisionDifference | None:
    """Return the difference of two decisions at the same position; one on a later event counts as none."""
    events = [one.event_seq for one in (a, b) if one is not None]
    if not events:
        return None
    first = min(events)
    a = a if a is not None and a.event_seq == first else None
    b = b if b is not None and b.event_seq == first else None
    fields = []
    if a is not None and b is not None and a.kind == b.kind:
        names = dict.fromkeys((*a.fields, *b.fields))
        fields = [
            FieldDifference(name, a.fields.get(name), b.fields.get(name))
            for name in names
            if msgspec.msgpack.encode(a.fields.get(name)) != msgspec.msgpack.encode(b.fields.get(name))
        ]
    return DecisionDifference(
        number,
        first,
        a.kind if a else "",
        b.kind if b else "",
        a.decision if a else None,
        b.decision if b else None,
        fields,
    )
