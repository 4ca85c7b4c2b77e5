"""Reads an agent again and again for `tapewire top`: of this machine, or elsewhere by the REST API."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from agent.api import run_reader
from agent.api.api_client import ApiError
from agent.api.route_table import MAX_LIMIT, RowsQuery, WindowQuery
from agent.api.run_messages import EquityPoint, FillEntry, HeadlineEntry, OrderEntry, SignalEntry
from agent.config import Config
from agent.core.errors import TapewireError, UsageError
from agent.core.events import DAY_MS
from agent.live.agent_screen import KEPT
from agent.live.control_socket import ControlRequest, send_request
from agent.live.interfaces.status import Status
from agent.store.database import open_database
from agent.store.queries import find_run

_TIMEOUT: Final = 10.0  # seconds that an agent may take to reply
_SPANS: Final = (DAY_MS, 30 * DAY_MS, None)  # of the record that is searched for the newest rows
_RECENT: Final = ("risk", "command", "notice", "strategy changed")
"""Kinds of lines of `Status.recent` that no list has."""

_INTERNAL: Final = ", by daemon"  # end of the lines on commands that the agent gives itself


class Numbered(Protocol):
    """A row of a run."""

    @property
    def seq(self) -> int:
        """Its place among the rows."""
        ...


R = TypeVar("R", bound=Numbered)


class AgentRows(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of an agent: its status, and the newest rows of its run, oldest first.

    `missing` states why there are no rows.
    """

    status: Status
    headlines: tuple[HeadlineEntry, ...] = ()
    orders: tuple[OrderEntry, ...] = ()
    fills: tuple[FillEntry, ...] = ()
    signals: tuple[SignalEntry, ...] = ()
    equity: tuple[EquityPoint, ...] = ()
    recent: tuple[dict[str, Any], ...] = ()  # risk, commands, notices: `event`, `at` and `what`
    missing: str = ""


class WatchedAgent(Protocol):
    """An agent and the record of its run: `tapewire.Client` is one. `since` is UTC ms."""

    def state(self) -> Status:
        """Return its status. Raises TapewireError if it can't be reached."""
        ...

    def news(self, run: str, *, since: int | None = None) -> Iterator[HeadlineEntry]:
        """Iterate over headlines."""
        ...

    def orders(self, run: str, *, since: int | None = None) -> Iterator[OrderEntry]:
        """Iterate over orders."""
        ...

    def fills(self, run: str, *, since: int | None = None) -> Iterator[FillEntry]:
        """Iterate over executions."""
        ...

    def signals(self, run: str, *, since: int | None = None) -> Iterator[SignalEntry]:
        """Iterate over signals."""
        ...

    def equity(self, run: str, *, since: int | None = None) -> Iterator[EquityPoint]:
        """Iterate over samples of the account."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


class LocalAgent:
    """The agent of a configuration on this machine: its control socket, and its store, which is only read."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._database: Any = None

    def state(self) -> Status:
        """Return its status. Raises NotRunning or NoAnswer."""
        reply = send_request(self._config.live.folder, ControlRequest("status", {}, ""), timeout=_TIMEOUT)
        return msgspec.convert(reply, Status)

    def news(self, run: str, *, since: int | None = None) -> Iterator[HeadlineEntry]:
        return self._pages(run_reader.read_headlines, run, RowsQuery(since=since, limit=MAX_LIMIT))

    def orders(self, run: str, *, since: int | None = None) -> Iterator[OrderEntry]:
        return self._pages(run_reader.read_orders, run, RowsQuery(since=since, limit=MAX_LIMIT))

    def fills(self, run: str, *, since: int | None = None) -> Iterator[FillEntry]:
        return self._pages(run_reader.read_fills, run, RowsQuery(since=since, limit=MAX_LIMIT))

    def signals(self, run: str, *, since: int | None = None) -> Iterator[SignalEntry]:
        return self._pages(run_reader.read_signals, run, RowsQuery(since=since, limit=MAX_LIMIT))

    def equity(self, run: str, *, since: int | None = None) -> Iterator[EquityPoint]:
        return self._pages(run_reader.read_equity, run, WindowQuery(since=since, limit=MAX_LIMIT))

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _pages(self, read: Callable[..., Any], run: str, query: Any) -> Iterator[Any]:
        if self._database is None:
            self._database = open_database(self._config.store.url, create=False)
        found = find_run(self._database, run)
        while True:
            page = read(self._database, found, query)
            yield from page.items
            if not page.more:
                return
            query = msgspec.structs.replace(query, cursor=page.cursor)


def agent_in(folder: Path | None, config: Path | None) -> LocalAgent:
    """Return the agent of a folder: one with a config.toml, or the `live.folder` of such a configuration.

    Without a folder, it is the agent of `config`. Raises ConfigError, or UsageError if the folder is neither.
    """
    from agent.config import load

    if folder is None:
        return LocalAgent(load(config))
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="name that of an agent's config.toml")
    if config is None:
        if (folder / "config.toml").is_file():
            return LocalAgent(load(folder / "config.toml"))
        for parent in folder.resolve().parents[:3]:
            if (parent / "config.toml").is_file():
                settled = load(parent / "config.toml")
                if settled.live.folder.resolve() == folder.resolve():
                    return LocalAgent(settled)
    settled = load(config)
    live = settled.live.model_copy(update={"folder": folder.resolve()})
    return LocalAgent(settled.model_copy(update={"live": live}))


class AgentWatch:
    """Reads an agent's status and the newest rows of its run; `read` again to follow it."""

    def __init__(self, agent: WatchedAgent) -> None:
        self._agent = agent
        self._last: AgentRows | None = None
        self._seen: tuple[object, ...] = ()

    def read(self) -> AgentRows:
        """Return the present state. Raises TapewireError if the agent can't be reached.

        Lists are read again only if there have been further events or decisions. If they can't be read, those
        that are known stay, and `missing` states why.
        """
        status = self._agent.state()
        last = self._last
        if last is None or last.status.run != status.run:
            last, self._seen = AgentRows(status=status), ()
        found = msgspec.structs.replace(last, status=status, recent=_recent(status, last))
        seen = (status.run, status.events, status.decisions)
        if seen != self._seen:
            try:
                found = msgspec.structs.replace(found, missing="", **self._lists(found))
                self._seen = seen
            except TapewireError as error:
                if isinstance(error, ApiError) and not error.status:
                    raise
                found = msgspec.structs.replace(found, missing=error.message)
        self._last = found
        return found

    def _lists(self, last: AgentRows) -> dict[str, Any]:
        agent, run, now = self._agent, last.status.run, last.status.now
        return {
            # those that are shown may have a score now, or another state
            "headlines": _newest(
                agent.news, run, now, last.headlines, lambda one: one.available_at, again=True
            ),
            "orders": _newest(agent.orders, run, now, last.orders, lambda one: one.order.ts, again=True),
            "fills": _newest(agent.fills, run, now, last.fills, lambda one: one.fill.ts),
            "signals": _newest(agent.signals, run, now, last.signals, lambda one: one.signal.ts),
            "equity": _newest(agent.equity, run, now, last.equity, lambda one: one.ts),
        }


def _recent(status: Status, last: AgentRows) -> tuple[dict[str, Any], ...]:
    """Add the new lines on risk, commands and notices to those that are known."""
    known = {(line["event"], line["what"]) for line in last.recent}
    new = (
        line
        for line in status.recent
        if line["what"].partition(":")[0] in _RECENT and not line["what"].endswith(_INTERNAL)
    )
    return (*last.recent, *(line for line in new if (line["event"], line["what"]) not in known))[-KEPT:]


def _newest(
    read: Callable[..., Iterable[R]],
    run: str,
    now: int,
    known: tuple[R, ...],
    time_of: Callable[[R], int],
    *,
    again: bool = False,
) -> tuple[R, ...]:
    """Return the newest rows. Of those that are `known`, only the last is read again, unless `again`."""
    if known:
        begin = time_of(known[0] if again else known[-1])
        rows = {row.seq: row for row in (*known, *read(run, since=begin))}
        return tuple(rows[number] for number in sorted(rows)[-KEPT:])
    found: tuple[R, ...] = ()
    for span in _SPANS:
        found = tuple(deque(read(run, since=None if span is None else max(0, now - span)), maxlen=KEPT))
        if len(found) == KEPT:
            break
    return found
