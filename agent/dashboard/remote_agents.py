"""Other agents, on this or other machines, by their REST APIs. A task of its own polls each."""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, Never, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from agent import __version__
from agent.api.api_messages import AccessInfo, CommandRequest, CommandResult, Problem
from agent.api.command_arguments import check_fields
from agent.api.route_table import BASE
from agent.api.run_messages import EquityPage, RunDetail
from agent.config.services import RemoteAgentConfig
from agent.core.errors import ConfigError, DataError, SafetyError, UsageError, VenueError, did_you_mean
from agent.core.events import DAY_MS
from agent.data.text import one_line
from agent.live.interfaces.probes import problems_of
from agent.live.interfaces.status import Status
from agent.system.bounded_body import read_body
from agent.system.clock import WallClock
from agent.system.http_timeouts import NO_TOTAL
from agent.system.secret import Secret, read_secret
from agent.system.untrusted import JSON_DECODE_ERRORS

T = TypeVar("T")

REMOTE_COMMANDS: Final = ("pause", "resume", "flatten", "kill")
"""Commands that the page can send to another agent."""

_TIMEOUT: Final = 5.0  # seconds of a request
_REFUSED_EVERY: Final = 30.0  # seconds between two tries with a refused token, which servers count
_COMMAND_TIMEOUT: Final = 20.0  # the other server waits for its agent up to 15 s
_MOST_BYTES: Final = 4_000_000  # of a response
_TEXT: Final = 300  # characters of a text of the other server
_POSITIONS: Final = 200  # of one agent
_PROBLEMS: Final = 20  # of one agent
_RUN: Final = 100  # characters of a run's id
_MOST: Final = 1_000_000_000  # working orders
_OTHER_API: Final = "the answer is not that of this version's API"


class HeldPosition(msgspec.Struct, frozen=True):
    """An open position; `qty` is signed."""

    symbol: str
    qty: float
    value: float


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as the page shows it. Times are UTC ms of this machine; figures are of the last response.

    `since` is when it became reachable or unreachable, 0 before the first response or failure.
    """

    name: str
    url: str
    reachable: bool = False
    since: int = 0
    answered_at: int = 0  # 0: never
    why: str = ""  # why it can't be reached
    hint: str = ""
    run: str = ""
    strategy: str = ""
    orders: str = ""
    version: str = ""
    risk: str = ""
    rule: str = ""
    detail: str = ""
    killed: bool = False  # a resume has to be confirmed
    currency: str = ""
    equity: float | None = None
    day_change: float | None = None  # since the first sample of the UTC day
    drawdown: float | None = None  # fraction
    exposure: float | None = None
    positions: tuple[HeldPosition, ...] = ()
    working: int = 0  # orders
    problems: tuple[str, ...] = ()
    commands: bool = False
    no_commands: str = ""  # why the page can't command it


class CurrencyTotal(msgspec.Struct, frozen=True):
    """Sums over the agents with an account in one currency that can be reached; `of` are all with it."""

    currency: str
    agents: int
    of: int
    equity: float
    day_change: float | None  # None if it is unknown of any
    exposure: float


def agent_token(config: RemoteAgentConfig) -> Secret:
    """Read the token of an agent. Raises ConfigError without one, and like `read_secret`."""
    variable = f"TAPEWIRE_AGENT_TOKEN_{re.sub(r'[^A-Z0-9]', '_', config.name.upper())}"
    secret = read_secret(variable, config.token_file)
    if secret is None:
        raise ConfigError(
            f"agents: there is no token for {config.name!r}",
            hint=f"set {variable}, or token_file of mode 0600",
        )
    if not secret.reveal().isascii() or not secret.reveal().isprintable():
        raise ConfigError(f"agents: the token for {config.name!r} has characters that no token has")
    return secret


class RemoteAgents:
    """The agents of `[[agents]]`, polled from `start` until `close`.

    Raises ConfigError for a name that is given twice or has no token.
    """

    def __init__(self, configured: Sequence[RemoteAgentConfig], every: float) -> None:
        self._agents: dict[str, _RemoteAgent] = {}
        for config in configured:
            if config.name in self._agents:
                raise ConfigError(f"agents: {config.name!r} occurs twice", hint="names are unique")
            self._agents[config.name] = _RemoteAgent(config, agent_token(config), every)
        self._tasks: list[asyncio.Task[Never]] = []

    def start(self) -> None:
        """Begin to poll all agents."""
        self._tasks = [asyncio.create_task(one.poll()) for one in self._agents.values()]

    async def close(self) -> None:
        """End all requests."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def rows(self) -> list[AgentRow]:
        """Return the agents in the order of the configuration."""
        return [one.row for one in self._agents.values()]

    async def command(self, name: str, command: CommandRequest, client: str) -> dict[str, Any]:
        """Send a command for a run to an agent; `client` is the address of the page's browser.

        Raises UsageError for an unknown agent, and what `_RemoteAgent.command` raises.
        """
        if name not in self._agents:
            known = ", ".join(self._agents) or "none is configured"
            raise UsageError(f"no agent {name[:60]!r}", hint=did_you_mean(name[:60], self._agents, known))
        if command.action not in REMOTE_COMMANDS:
            raise UsageError(
                f"unknown command {command.action!r}", hint=f"use one of {', '.join(REMOTE_COMMANDS)}"
            )
        if not command.run:
            raise UsageError("the command names no run", hint="reload the page")
        check_fields(command)
        return await self._agents[name].command(command, client)


def totals_of(rows: Sequence[AgentRow]) -> list[CurrencyTotal]:
    """Sum up the accounts of each currency."""
    by_currency: defaultdict[str, list[AgentRow]] = defaultdict(list)
    for row in rows:
        if row.currency:
            by_currency[row.currency].append(row)
    found = []
    for currency, members in sorted(by_currency.items()):
        counted = [one for one in members if one.reachable and one.equity is not None]
        changes = [one.day_change for one in counted]
        known = [change for change in changes if change is not None]
        found.append(
            CurrencyTotal(
                currency,
                len(counted),
                len(members),
                sum(one.equity or 0.0 for one in counted),
                sum(known) if known and len(known) == len(changes) else None,
                sum(one.exposure or 0.0 for one in counted),
            )
        )
    return found


class _RemoteAgent:
    """Polls one server. `row` is what is known of its agent."""

    def __init__(self, config: RemoteAgentConfig, token: Secret, every: float) -> None:
        self.row = AgentRow(name=config.name, url=f"{config.url}/")
        self._base = config.url + BASE
        self._token = token
        self._every = every
        self._wall = WallClock()
        self._soon = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._run: RunDetail | None = None
        self._opened: tuple[str, int, float] | None = None  # run, day, and the first equity of the day

    async def poll(self) -> Never:
        """Poll until cancelled."""
        connector = aiohttp.TCPConnector(limit=4)
        async with aiohttp.ClientSession(
            timeout=NO_TOTAL, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, connector=connector
        ) as self._session:
            while True:
                self._soon.clear()
                wait = self._every
                try:
                    row = await self._poll_once()
                except (VenueError, DataError, UsageError, SafetyError) as error:
                    row = self._unreachable(error.message, error.hint)
                    if isinstance(error, SafetyError):
                        wait = max(wait, _REFUSED_EVERY)
                self.row = row
                try:
                    async with asyncio.timeout(wait):
                        await self._soon.wait()
                except TimeoutError:
                    continue

    def _unreachable(self, why: str, hint: str) -> AgentRow:
        since = self.row.since if self.row.since and not self.row.reachable else self._wall.now()
        return msgspec.structs.replace(
            self.row, reachable=False, since=since, why=why, hint=hint, commands=False, no_commands=""
        )

    async def _poll_once(self) -> AgentRow:
        """Return the row of a new response. Raises DataError if its figures are invalid, and like `_get`."""
        try:
            row = await self._request_row()
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{_OTHER_API}: {type(error).__name__}: {one_line(str(error), _TEXT)}",
                hint=f"this is {__version__}",
            ) from None
        figures = [row.equity, row.drawdown, row.exposure, *(one.qty for one in row.positions)]
        if not all(isfinite(one) for one in figures if one is not None):
            raise DataError(f"{_OTHER_API}: a figure is no finite number")
        if not 0 <= row.working <= _MOST:
            raise DataError(f"{_OTHER_API}: there can't be so many working orders")
        return row

    async def _request_row(self) -> AgentRow:
        status = await self._get("/state", Status)
        if len(status.run) > _RUN:
            raise DataError(f"{_OTHER_API}: the id of the run has more than {_RUN} characters")
        if self._run is None or self._run.run.id != status.run:
            self._run = await self._get(f"/runs/{quote(status.run, safe='')}", RunDetail)
        access, refusal = await self._access()
        start = await self._day_start(status)
        now = self._wall.now()
        account = self._run.run.config.get("account")
        currency = account.get("currency", "") if isinstance(account, dict) else ""
        held = [one for one in status.positions if one.qty]
        return AgentRow(
            name=self.row.name,
            url=self.row.url,
            reachable=True,
            since=self.row.since if self.row.reachable else now,
            answered_at=now,
            run=status.run,
            strategy=one_line(status.strategy, _TEXT),
            orders=one_line(status.orders, _TEXT),
            version=one_line(access.version, 40) if access else "",
            risk=status.risk.value,
            rule=one_line(status.risk_rule, _TEXT),
            detail=one_line(status.risk_detail, _TEXT),
            killed=status.risk_rule == "kill",
            currency=one_line(str(currency), 12),
            equity=status.equity,
            day_change=None if start is None else status.equity - start,
            drawdown=status.drawdown,
            exposure=sum(abs(one.value) for one in status.positions),
            positions=tuple(
                HeldPosition(one.symbol[:40], float(one.qty), one.value) for one in held[:_POSITIONS]
            ),
            working=sum(one.open_orders for one in status.positions),
            problems=tuple(one_line(one, _TEXT) for one in _problems(status)[:_PROBLEMS]),
            commands=access is not None and access.commands,
            no_commands="" if access and access.commands else refusal,
        )

    async def _access(self) -> tuple[AccessInfo | None, str]:
        """Return what the token allows, and why it allows no commands."""
        try:
            access = await self._get("/access", AccessInfo)
        except UsageError:
            return None, "its version doesn't state whether it takes commands"
        if access.commands:
            return access, ""
        has_scope = any(one.value == "command" for one in access.scopes)
        return access, "api.commands is false there" if has_scope else "the token has no scope command"

    async def _day_start(self, status: Status) -> float | None:
        day = status.now // DAY_MS
        if self._opened is None or self._opened[:2] != (status.run, day):
            path = f"/runs/{quote(status.run, safe='')}/equity?since={day * DAY_MS}&limit=1"
            page = await self._get(path, EquityPage)
            if not page.items or page.items[0].equity is None:
                return None
            self._opened = status.run, day, page.items[0].equity
        return self._opened[2]

    async def command(self, command: CommandRequest, client: str) -> dict[str, Any]:
        """Send a command and return its result.

        Raises SafetyError if the agent takes none from here, what it refuses with, and VenueError if no
        response came, so that the command may have been executed.
        """
        if not self.row.commands:
            reason = self.row.no_commands or self.row.why or "it has not answered yet"
            raise SafetyError(f"{self.row.name} takes no commands from this page: {reason}")
        if command.action == "kill":
            command = msgspec.structs.replace(command, reason=f"from the page of {client}")
        try:
            body = msgspec.json.encode(command)
            result = await self._get("/commands", CommandResult, body, timeout=_COMMAND_TIMEOUT)
        except VenueError as error:
            raise VenueError(
                f"{error.message}: the command may have been executed",
                hint="look at the agent's state before you repeat it",
            ) from None
        finally:
            self._soon.set()
        return {"action": result.action, "risk": result.risk}

    async def _get(self, path: str, kind: type[T], body: bytes | None = None, timeout: float = _TIMEOUT) -> T:
        """Return the response to a GET, or with a `body` to a POST.

        Raises VenueError without a response, UsageError and SafetyError for what the server refuses.
        """
        if self._session is None:
            raise VenueError("the agents are not asked yet")
        headers = {"Authorization": f"Bearer {self._token.reveal()}", "User-Agent": f"tapewire/{__version__}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    "GET" if body is None else "POST",
                    self._base + path,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                status, content = response.status, await read_body(response, _MOST_BYTES)
        except TimeoutError:
            raise VenueError(f"no answer within {timeout:g} s", hint="is the machine reachable?") from None
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            number = cause.errno or 0  # negative: of a name that is not found
            why = os.strerror(number) if number > 0 else one_line(str(cause.strerror), _TEXT)
            raise VenueError(f"no connection: {why}", hint="does the agent run?") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = one_line(str(error), _TEXT).replace(self._token.reveal(), "***")
            raise VenueError(f"{type(error).__name__}: {reason}", hint="does the agent run?") from None
        if status >= 300:
            raise _refusal(status, content)
        try:
            found: T = msgspec.json.decode(content, type=kind)
        except JSON_DECODE_ERRORS as error:
            raise DataError(f"{_OTHER_API}: {error}", hint=f"this is {__version__}") from None
        return found


def _problems(status: Status) -> list[str]:
    problems = problems_of(status)
    if status.unreconciled:
        problems.append("the account is not reconciled with the venue")
    return [*problems, *([f"the record: {status.record}"] if status.record else [])]


def _refusal(status: int, content: bytes) -> Exception:
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except JSON_DECODE_ERRORS:
        where = "; redirects are not followed" if status < 400 else ""
        return VenueError(f"status {status}, but no answer of the API{where}", hint="check the url")
    kind = SafetyError if status in (401, 403, 429) else VenueError if status >= 500 else UsageError
    return kind(one_line(problem.detail, _TEXT), hint=one_line(problem.hint, _TEXT))
