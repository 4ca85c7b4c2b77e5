"""Lines are batched into messages whose number and size are limited."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.config.services import NotifyConfig
from agent.live.services.notifications.batcher import NotificationBatcher


def mailbox(**more: object) -> NotificationBatcher:
    return NotificationBatcher(
        NotifyConfig(**({"coalesce": 5_000, "max_per_hour": 2, "max_lines": 3} | more))
    )  # type: ignore[arg-type]


def test_lines_within_the_interval_share_a_message() -> None:
    box = mailbox()
    box.add("fills", "one", 0.0)
    box.add("risk", "two", 4.0, urgent=True)
    assert box.due(4.9) is None
    letter = box.due(5.0)
    assert letter is not None
    assert (letter.body, letter.urgent, letter.title) == ("one\ntwo", True, "Tapewire: 2 events")
    assert box.due(99.0) is None


def test_a_single_line_is_its_own_title() -> None:
    box = mailbox()
    box.add("fills", "BUY 1 BTCUSDT", 0.0)
    letter = box.due(5.0)
    assert letter is not None
    assert letter.title == "Tapewire: BUY 1 BTCUSDT"


def test_the_hourly_limit_delays_lines_and_counts_the_rest() -> None:
    box = mailbox()
    for minute in range(2):
        box.add("fills", "early", minute * 60.0)
        assert box.due(minute * 60.0 + 5)
    for number in range(10):
        box.add("fills", f"late {number}", 200.0)
    assert box.due(300.0) is None
    assert box.due(300.0, closing=True) is None
    letter = box.due(3_700.0)
    assert letter is not None
    assert letter.body == "late 0\nlate 1\nlate 2\n… and 7 more of fills"


def test_events_that_are_not_configured_are_dropped() -> None:
    box = mailbox(events=("risk",))
    box.add("fills", "one", 0.0)
    assert box.due(99.0) is None


@given(st.lists(st.tuples(st.floats(0, 7_200), st.text(max_size=3_000)), max_size=200))
def test_size_and_rate_of_messages_are_bounded(lines: list[tuple[float, str]]) -> None:
    box, sent = mailbox(), []
    for now, line in sorted(lines):
        box.add("fills", line, now)
        if letter := box.due(now):
            sent.append((now, letter))
    assert all(len(letter.body) < 3 * 405 + 100 for _, letter in sent)
    for now, _ in sent:
        assert sum(now - 3_600 < other <= now for other, _ in sent) <= 2
