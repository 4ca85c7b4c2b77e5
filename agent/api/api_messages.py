"""What the API sends and receives, as structs; the OpenAPI document and the Python client use them too.

Here are access, problems, pages, and what the running agent sends and receives; `run_messages` has recorded
runs, `job_messages` jobs. Times are UTC milliseconds. Prices, quantities and amounts of orders, fills and
trades are decimal strings; figures are floats. New fields may be added, so clients must ignore fields that
they don't know.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, get_args

import msgspec


class Scope(str, Enum):
    """What a token allows: to read, to run research jobs, to send commands. None includes another."""

    READ = "read"
    RESEARCH = "research"
    COMMAND = "command"


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457, media type application/problem+json)."""

    type: str  # urn:tapewire:problem:NAME
    title: str  # the same for all problems of a type
    status: int
    detail: str  # what was wrong
    instance: str  # path of the request
    where: str = ""  # the parameter, or the field of the body, that was wrong
    hint: str = ""  # what would be right


class AccessInfo(msgspec.Struct, frozen=True):
    """What the sender of a request may do at this server, and the server's version."""

    version: str
    sender: str  # as its commands are journalled
    scopes: tuple[Scope, ...]
    commands: bool  # an agent runs here and takes commands of this sender


class PageEnd(msgspec.Struct, frozen=True):
    """Base of pages of rows. `cursor` continues after the last row, also if `more` is False: rows that are
    added later follow there.
    """

    cursor: str
    more: bool


# -- the running agent -----------------------------------------------------------------------------------

Action = Literal["pause", "resume", "halt", "flatten", "kill", "use-strategy", "set-strategy"]
ACTIONS: tuple[str, ...] = get_args(Action)
"""Commands of the page and the API."""


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command to the running agent; each field counts for the actions that its comment names."""

    action: Action
    run: str = ""  # refuse the command unless this run is running; empty: any
    flatten: bool = False  # kill, use-strategy, set-strategy: also close all positions
    confirm: str = ""  # resume after a kill: "resume from kill"
    reason: str = ""  # kill: for the journal
    sleeve: str = ""  # all but kill: only this sleeve
    symbol: str = ""  # flatten: only this symbol
    strategy: str = ""  # use-strategy
    params: dict[str, str] = {}  # use-strategy, set-strategy


class CommandResult(msgspec.Struct, frozen=True):
    """A command that was journalled and handled.

    `event` is the number of the last event in the journal, the command's or a later one; null if a kill was
    carried out at the venue while the store can't be written. `details` has what the action adds.
    """

    action: str
    event: int | None
    risk: str  # state of the account's risk after the command
    details: dict[str, Any]


ChangeKind = Literal["state", "strategy", "order", "order-update", "fill", "trade", "signal", "news", "score"]
CHANGE_KINDS: tuple[str, ...] = get_args(ChangeKind)


class AgentChange(msgspec.Struct, frozen=True):
    """A change at the running agent, one message of /api/v1/events.

    `id` identifies the order, the fill, the headline (news, score), or of a trade that was closed the order
    that closed it (`exit_order`). The store has the rows a moment later.
    """

    key: str  # the message's id for Last-Event-ID
    kind: ChangeKind
    run: str
    event: int  # number of the event that caused it
    ts: int
    id: str = ""
    symbol: str = ""
    detail: str = ""  # state: risk state and rule, or command; strategy: name; order-update: status …


Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Levels of activity and log lines, from the least to the most serious."""


class LogLine(msgspec.Struct, frozen=True):
    """A line of the agent's log. Secrets are masked; texts may come from outside: show them as text."""

    number: int  # counts up from 1 in this process
    ts: int
    level: Level
    event: str
    fields: dict[str, str]


class LogPage(msgspec.Struct, frozen=True):
    """The latest lines of the log that match, newest last. `after` continues behind `last`.

    The process keeps the latest 2,000 lines, from `first` on, of the levels that `log.level` lets through.
    """

    first: int
    last: int
    matching: int
    items: tuple[LogLine, ...]


class StreamReset(msgspec.Struct, frozen=True):
    """The first message after a Last-Event-ID that can't be continued: read the lists anew."""

    reason: str
