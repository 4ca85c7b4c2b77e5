"""Batches lines into notifications, and limits how many are sent."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NamedTuple

from agent.config.services import NotifyConfig, Subject

_HOUR: Final = 3_600.0
_CLIP: Final = 400  # characters of a line


class Notification(NamedTuple):
    """A message to send. `urgent` if trading stopped or an operator is needed."""

    title: str
    body: str
    urgent: bool


class NotificationBatcher:
    """Collects lines; times are seconds of any monotonic clock.

    A notification is due `coalesce` after its first line, unless `max_per_hour` went out within the last
    hour. The first `max_lines` lines are kept, the others counted by subject, so memory is bounded.
    """

    def __init__(self, config: NotifyConfig) -> None:
        self._config = config
        self._lines: list[str] = []
        self._more: Counter[Subject] = Counter()
        self._urgent = False
        self._first = 0.0
        self._sent: deque[float] = deque()

    def add(self, subject: Subject, line: str, now: float, *, urgent: bool = False) -> None:
        """Add a line, unless its subject isn't configured."""
        if subject not in self._config.events:
            return
        if not self._lines:
            self._first = now
        self._urgent |= urgent
        if len(self._lines) < self._config.max_lines:
            self._lines.append(line if len(line) <= _CLIP else f"{line[:_CLIP]}…")
        else:
            self._more[subject] += 1

    def due(self, now: float, *, closing: bool = False) -> Notification | None:
        """Return the notification that is due, or None. `closing` doesn't wait for `coalesce`."""
        if not self._lines or (not closing and now < self._first + self._config.coalesce / 1000):
            return None
        while self._sent and self._sent[0] <= now - _HOUR:
            self._sent.popleft()
        if len(self._sent) >= self._config.max_per_hour:
            return None
        self._sent.append(now)
        more = [f"… and {count:,} more of {subject}" for subject, count in self._more.items()]
        title = (
            self._lines[0]
            if len(self._lines) == 1 and not more
            else f"{len(self._lines) + self._more.total():,} events"
        )
        notification = Notification(f"Tapewire: {title}"[:120], "\n".join(self._lines + more), self._urgent)
        self._lines, self._more, self._urgent = [], Counter(), False
        return notification
