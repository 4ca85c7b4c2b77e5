"""`tapewire doctor`: checks that everything the agent needs is present and works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from agent.config import Config
from agent.config.bybit import endpoint, interval_code
from agent.config.live import FeedConfig
from agent.core.errors import ConfigError, DataError, NotRunning, StoreError, TapewireError, VenueError
from agent.core.instruments import instrument_for
from agent.core.masking import mask, mask_also, secrets_in, without_secrets
from agent.core.sinks import NullSink
from agent.data.kline_messages import Frame
from agent.data.text import one_line
from agent.live.control_socket import SOCKET, ControlRequest, send_request
from agent.live.gateway.preflight import check_rules
from agent.live.gateway.venue_port import VenuePort
from agent.live.interfaces.producer import shown
from agent.live.llm_check import check_model
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.bybit_stream import BybitStream, KlineHealth
from agent.live.news.destinations import DestinationPolicy
from agent.live.news.fetch import fetch
from agent.live.news.parser_pool import ParserPool
from agent.live.order_routing import check_venue, venue_port
from agent.replay.engine_state import capture
from agent.replay.fusion_model import wants_headlines
from agent.replay.object_codec import Unencodable
from agent.replay.open_engine import name_of, open_engine
from agent.store.database import Database, open_database
from agent.store.integrity import check_store
from agent.store.journal import find_segments
from agent.store.queries import list_runs
from agent.store.runs import RunKind, RunStatus
from agent.store.state_snapshots import list_snapshots
from agent.system.addresses import is_loopback
from agent.system.backoff import Budget
from agent.system.clock import Clock, WallClock, iso
from agent.system.http_timeouts import NO_TOTAL
from agent.system.untrusted import JSON_DECODE_ERRORS

MAX_SKEW: Final = 1_000
"""Largest tolerated difference (ms) between this machine's clock and the exchange's."""

_BARS: Final = 3
_REPLY: Final = 5.0  # seconds for the running agent's reply
_LONGEST: Final = 1_000  # characters of a result


class CheckResult(msgspec.Struct, frozen=True):
    """Result of one check; `hint` states how to fix it if it is not `ok`."""

    name: str
    ok: bool
    found: str
    hint: str = ""
    ms: float = 0.0


async def run_checks(config: Config, clock: Clock | None = None, *, full: bool = False) -> list[CheckResult]:
    """Run all checks concurrently; a failure is a `CheckResult`, never an exception.

    With `full` the whole store is read.
    """
    clock = clock or WallClock()
    headlines = True
    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "strategy": partial(asyncio.to_thread, _strategy, config),
        "store": partial(asyncio.to_thread, _store, config, full=full),
    }
    if (config.live.folder / SOCKET).exists():
        checks["log"] = partial(asyncio.to_thread, _log, config)
    with suppress(ConfigError):  # the strategy's own check reports one that doesn't exist
        headlines = wants_headlines(config)
    pool = ParserPool(config.news.parse_timeout, config.news.parse_memory)
    if headlines:
        checks["model"] = partial(check_model, config, config.model.path)
        if config.model.revise_with:
            checks["revising model"] = partial(check_model, config, config.model.revise_with)
        checks |= {
            f"feed {feed.label}": partial(_feed, feed, config, clock, pool) for feed in config.news.feeds
        }
    if config.market.category != "equity":
        checks |= {name: partial(check, config, clock) for name, check in _MARKET.items()}
    if config.execution.mode == "testnet":
        checks |= {name: partial(_at_venue, check, config, clock) for name, check in _VENUE.items()}
    async with pool:
        return list(await asyncio.gather(*(_run_check(name, check) for name, check in checks.items())))


async def _run_check(name: str, check: Callable[[], Awaitable[str]]) -> CheckResult:
    began = time.perf_counter()
    try:
        ok, found, hint = True, await check(), ""
    except TapewireError as error:
        ok, found, hint = False, error.message, error.hint
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        ok, found, hint = False, shown(error), "check the network, and the address in the configuration"
    return CheckResult(
        one_line(name, _LONGEST),
        ok,
        mask(one_line(found, _LONGEST)),
        one_line(hint, _LONGEST),
        round((time.perf_counter() - began) * 1000, 1),
    )


def _strategy(config: Config) -> str:
    found = f"{name_of(config)} on {', '.join(config.market.symbols)}"
    try:
        capture(open_engine(config, NullSink(), run_id="doctor"))
    except Unencodable as error:
        return f"{found}; a restart folds the whole journal, since its state can't be saved: {error}"
    return found


def _store(config: Config, *, full: bool) -> str:
    """Open the store, which checks its schema, and take the write lock to show that it can be written."""
    with closing(open_database(config.store.url)) as database:
        with database.write():
            pass
        _archives(database)
        checked = check_store(database, config.live.folder, full=full)
        return (
            f"{database.name} is at this program's schema, and can be written; {checked}{_snapshot(database)}"
        )


def _log(config: Config) -> str:
    """Check that the running agent's log lines are written."""
    try:
        log = send_request(config.live.folder, ControlRequest("status"), timeout=_REPLY)["log"]
    except NotRunning:
        return "no agent is running"
    lost = f"{log['dropped']:,} lines dropped, {log['suppressed']:,} repetitions suppressed"
    if log["error"]:
        raise TapewireError(
            f"{lost}: {log['error']}",
            hint="free disk space, or fix the program that reads the agent's standard error",
        )
    return lost


def _archives(database: Database) -> None:
    """Raise StoreError if a file that holds a part of a run's journal is missing."""
    for run in list_runs(database):
        for segment in find_segments(database, run.id) if run.kind is RunKind.LIVE else ():
            if segment.pruned_at is not None and not Path(segment.path).is_file():
                raise StoreError(
                    f"{segment.path} with the events {segment.first} to {segment.last} of run {run.id} is "
                    "missing",
                    hint="restore it, e.g. from the folder archives of a backup; verify and a full fold need "
                    "it",
                )


def _snapshot(database: Database) -> str:
    """Describe where a restart of the last live run would continue."""
    run = next((run for run in list_runs(database) if run.kind is RunKind.LIVE), None)
    if run is None or run.status is RunStatus.COMPLETE:
        return ""
    newest = next(iter(list_snapshots(database, run.id)), None)
    return (
        f"; the last snapshot covers {newest.seq:,} events"
        if newest
        else "; without a snapshot: a restart folds the whole journal"
    )


async def _skew(config: Config, clock: Clock) -> str:
    """Compare the exchange's time with this machine's in the middle of the round trip."""
    base = endpoint(config.bybit.endpoint).rest
    async with (
        asyncio.timeout(config.bybit.rest_timeout / 1000),
        aiohttp.ClientSession(timeout=NO_TOTAL, trust_env=not is_loopback(base)) as session,
    ):
        before = clock.now()
        async with session.get(f"{base}/v5/market/time") as response:
            body, after = await response.read(), clock.now()
    try:
        venue_time = int(msgspec.json.decode(body)["result"]["timeNano"]) // 1_000_000
    except (*JSON_DECODE_ERRORS, KeyError, TypeError, ValueError):
        raise VenueError(
            f"{base} answered HTTP {response.status}, without a time", hint="check bybit.endpoint"
        ) from None
    skew = (before + after) // 2 - venue_time
    if abs(skew) > MAX_SKEW + (after - before) // 2:
        raise VenueError(
            f"this machine's clock is {abs(skew)} ms {'ahead of' if skew > 0 else 'behind'} the exchange's",
            hint="synchronise it by NTP",
        )
    return f"{skew:+d} ms off the exchange's, round trip {after - before} ms"


async def _history(config: Config, clock: Clock) -> str:
    market = config.market
    async with KlineHistory(
        config.bybit, market.category, clock, Budget(config.bybit.max_requests, 5.0)
    ) as history:
        since = clock.now() // market.interval * market.interval - _BARS * market.interval
        for symbol in market.symbols:
            found = await history.fetch(symbol, market.interval, since)
            if not found.bars:
                raise VenueError(
                    f"no bars of {symbol} since {iso(since)}",
                    hint="check that it is traded, and that the clock is right",
                )
    return f"{', '.join(market.symbols)}: the last bar closed at {found.bars[-1].close:g}"


async def _websocket(config: Config, clock: Clock) -> str:
    """Connect, subscribe to all topics, and check that the venue accepts them."""
    market = config.market
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    health = KlineHealth("doctor")
    url = f"{endpoint(config.bybit.endpoint).stream}/v5/public/{market.category}"
    topics = [f"kline.{interval_code(market.interval)}.{symbol}" for symbol in market.symbols]

    async def ignore(frame: Frame) -> None: ...

    stream = BybitStream(
        url, topics, config.bybit, clock, health, ignore, lambda accepted: ready.set_result(len(accepted))
    )
    reading = asyncio.create_task(stream.run())
    try:
        either: set[asyncio.Future[Any]] = {reading, ready}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await reading  # raises its error
        if health.rejected:
            raise VenueError(
                f"{url} rejects {', '.join(sorted(health.rejected))}",
                hint="check market.symbols and market.interval",
            )
        return f"{url} accepts {ready.result()} topics"
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _feed(feed: FeedConfig, config: Config, clock: Clock, pool: ParserPool) -> str:
    """Read the feed once. Secrets of its URL are masked in errors, since a server may repeat them."""
    secrets = secrets_in(feed.url)
    try:
        return await _read_feed(feed, config, clock, pool)
    except TapewireError as error:
        error.message, error.hint = mask_also(error.message, secrets), mask_also(error.hint, secrets)
        raise


async def _read_feed(feed: FeedConfig, config: Config, clock: Clock, pool: ParserPool) -> str:
    news, access = config.news, DestinationPolicy(feed.url, config.news.allow_private)
    async with access.session(news) as session:
        answer = await fetch(session, feed.url, news, clock, access=access)
    if answer.body is None:
        raise VenueError(f"{feed.url} answered HTTP {answer.status} without a document")
    document = await pool.parse(
        answer.body, url=without_secrets(answer.url), content_type=answer.content_type
    )
    if not document.entries:
        raise DataError(f"{feed.url} lists nothing", hint="check its address")
    newest = max((entry.published for entry in document.entries if entry.published), default=None)
    return f"{len(document.entries)} entries, the newest of {iso(newest) if newest else 'an unknown time'}"


async def _at_venue(
    check: Callable[[VenuePort, Config, Clock], Awaitable[str]], config: Config, clock: Clock
) -> str:
    """Run a check with a venue port of its own."""
    check_venue(config)
    port = venue_port(config, clock)
    if port is None:
        raise ConfigError("execution.mode is paper")
    try:
        async with asyncio.timeout(config.execution.testnet.start_within / 1000):
            return await check(port, config, clock)
    finally:
        await port.close()


async def _venue_clock(port: VenuePort, config: Config, clock: Clock) -> str:
    """Fetch the venue's time, which needs no keys."""
    before = clock.now()
    venue_time = await port.server_time()
    skew, most = (before + clock.now()) // 2 - venue_time, config.execution.testnet.max_skew
    if abs(skew) > most:
        raise VenueError(
            f"this machine's clock is {abs(skew)} ms {'ahead of' if skew > 0 else 'behind'} the venue's: "
            "more than the agent corrects",
            hint="synchronise it by NTP",
        )
    return f"{config.execution.testnet.venue} answers, {skew:+d} ms off"


async def _keys(port: VenuePort, config: Config, _: Clock) -> str:
    """Fetch the wallet with a signed request."""
    balances = (await port.wallet()).balances
    coin = config.account.currency
    return f"accepted; {balances.get(coin, 0):,.2f} {coin} in the account"


async def _positions(port: VenuePort, config: Config, _: Clock) -> str:
    """Check rules and position mode of each symbol, and count what the account holds."""
    rules = await port.rules(config.market.symbols)
    for symbol in config.market.symbols:
        check_rules(instrument_for(symbol, config), rules.get(symbol), config.execution.testnet.venue)
    if config.market.category == "linear":
        hedged = [symbol for symbol in config.market.symbols if await port.position_mode(symbol) == "hedge"]
        if hedged:
            raise VenueError(
                f"{', '.join(hedged)} in hedge mode", hint="the agent requests one-way mode when it starts"
            )
    positions, orders = await port.positions(), await port.open_orders()
    return f"rules fit, one-way mode; {len(positions)} positions and {len(orders)} open orders in the account"


_VENUE: Final = {"venue": _venue_clock, "keys": _keys, "account": _positions}
_MARKET: Final = {"clock": _skew, "history": _history, "websocket": _websocket}
