"""The latest lines of the running agent's log, filtered."""

from __future__ import annotations

from agent.api.api_messages import LEVELS, LogLine, LogPage
from agent.api.route_table import LogQuery
from agent.live.log_lines import KeptLine


def log_page(lines: list[KeptLine], query: LogQuery) -> LogPage:
    """Return the newest `limit` lines that match, oldest first; `lines` are in the order of their numbers."""
    words = (query.search or "").casefold().split()
    least = LEVELS.index(query.level or "debug")
    found = [
        line
        for line in lines
        if line.number > query.after and _rank(line.level) >= least and _has(line, words)
    ]
    items = tuple(
        LogLine(line.number, line.ts, LEVELS[_rank(line.level)], line.event, line.fields)
        for line in found[-query.limit :]
    )
    first, last = (lines[0].number, lines[-1].number) if lines else (0, query.after)
    return LogPage(first, last, len(found), items)


def _rank(level: str) -> int:
    return next((rank for rank, known in enumerate(LEVELS) if known == level), LEVELS.index("info"))


def _has(line: KeptLine, words: list[str]) -> bool:
    if not words:
        return True
    pairs = " ".join(f"{name} {value}" for name, value in line.fields.items())
    text = f"{line.event} {pairs}".casefold()
    return all(word in text for word in words)
