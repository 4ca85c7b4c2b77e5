"""Times as people write them on a command line."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.core.errors import UsageError


def parse_moment(text: str, option: str) -> int:
    """UTC milliseconds of a date or an ISO 8601 time; what names no zone is UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no date", hint="write 2025-01-31 or 2025-01-31T12:00Z"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
