"""`tapewire doctor`: whether everything that the agent needs is there and answers, and what to do where it isn't."""

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
from agent.core.engine import Engine
from agent.core.errors import ConfigError, DataError, NotRunning, StoreError, TapewireError, VenueError
from agent.core.instruments import instrument_for
from agent.core.masking import mask, mask_also, secrets_in, without_secrets
from agent.core.sinks import NullSink
from agent.data.kline_messages import Frame
from agent.data.text import one_line
from agent.live.control_socket import SOCKET, Request, ask
from agent.live.gateway.preflight import check_rules
from agent.live.gateway.venue_port import VenuePort
from agent.live.interfaces.producer import shown
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.kline_health import KlineHealth
from agent.live.market_data.public_stream import Stream
from agent.live.news.destinations import FeedAccess
from agent.live.news.fetch import fetch
from agent.live.news.parser_pool import ParserPool
from agent.live.order_routing import check_venue, venue_port
from agent.replay.engine_state import capture
from agent.replay.fusion_model import wants_headlines
from agent.replay.object_codec import Unencodable
from agent.store.database import Database, open_database
from agent.store.integrity import check_store
from agent.store.journal import find_segments
from agent.store.queries import list_runs
from agent.store.runs import RunKind, RunStatus
from agent.store.state_snapshots import list_snapshots
from agent.system.addresses import is_loopback
from agent.system.backoff import Budget
from agent.system.clock import Clock, WallClock, iso
from agent.system.untrusted import JSON_DECODE_ERRORS
from strategies import load_strategy

MAX_SKEW: Final = 1_000
"""ms between this machine's clock and the exchange's, beyond which times can't be trusted."""

_HEADLINE: Final = "Regulator approves the first fund that holds bitcoin"
_BARS: Final = 3
_ANSWER: Final = 5.0  # seconds for the running agent
_LONGEST: Final = 1_000  # characters of what was found


class Check(msgspec.Struct, frozen=True):
    """What was looked at and found; `hint` says what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str
    hint: str = ""
    ms: float = 0.0


async def examine(config: Config, clock: Clock | None = None, *, full: bool = False) -> list[Check]:
    """Look at everything, side by side; what fails is a `Check` too, never an exception. With `full` all of the store is read."""
    clock = clock or WallClock()
    headlines = True
    looks: dict[str, Callable[[], Awaitable[str]]] = {
        "strategy": partial(asyncio.to_thread, _strategy, config),
        "store": partial(asyncio.to_thread, _store, config, full=full),
    }
    if (config.live.folder / SOCKET).exists():
        looks["log"] = partial(asyncio.to_thread, _log, config)
    with suppress(ConfigError):  # a strategy that doesn't exist is told by its own check
        headlines = wants_headlines(config)
    pool = ParserPool(config.news.parse_timeout, config.news.parse_memory)
    if headlines:
        looks["model"] = partial(asyncio.to_thread, _model, config)
        looks |= {
            f"feed {feed.label}": partial(_feed, feed, config, clock, pool) for feed in config.news.feeds
        }
    if config.market.category != "equity":
        looks |= {name: partial(look, config, clock) for name, look in _MARKET.items()}
    if config.execution.mode == "testnet":
        looks |= {name: partial(_at_venue, look, config, clock) for name, look in _VENUE.items()}
    async with pool:
        return list(await asyncio.gather(*(_check(name, look) for name, look in looks.items())))


async def _check(name: str, look: Callable[[], Awaitable[str]]) -> Check:
    began = time.perf_counter()
    try:
        ok, found, hint = True, await look(), ""
    except TapewireError as error:
        ok, found, hint = False, error.message, error.hint
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        ok, found, hint = False, shown(error), "check the network, and the address in the configuration"
    return Check(
        one_line(name, _LONGEST),
        ok,
        mask(one_line(found, _LONGEST)),
        one_line(hint, _LONGEST),
        round((time.perf_counter() - began) * 1000, 1),
    )


def _strategy(config: Config) -> str:
    strategy = load_strategy(config.strategy.name, config.strategy.params)
    found = f"{config.strategy.name} on {', '.join(config.market.symbols)}"
    try:
        capture(Engine(config, strategy, NullSink(), run_id="doctor", exchange=config.execution.exchange()))
    except Unencodable as error:
        return f"{found}; a restart folds the whole journal, since its state can't be saved: {error}"
    return found


def _store(config: Config, *, full: bool) -> str:
    """Opening checks the schema against the migrations; taking the write lock shows that it can be written."""
    with closing(open_database(config.store.url)) as database:
        with database.write():
            pass
        _archives(database)
        checked = check_store(database, config.live.folder, full=full)
        return (
            f"{database.name} is at this program's schema, and can be written; {checked}{_snapshot(database)}"
        )


def _log(config: Config) -> str:
    """Of the running agent: whether its lines are written."""
    try:
        log = ask(config.live.folder, Request("status"), timeout=_ANSWER)["log"]
    except NotRunning:
        return "no agent runs"
    lost = f"{log['dropped']:,} lines dropped, {log['suppressed']:,} repetitions suppressed"
    if log["error"]:
        raise TapewireError(
            f"{lost}: {log['error']}", hint="give the agent's standard error space, or a reader that reads"
        )
    return lost


def _archives(database: Database) -> None:
    """Raises StoreError if a file is gone that holds a part of a run's journal."""
    for run in list_runs(database):
        for segment in find_segments(database, run.id) if run.kind is RunKind.LIVE else ():
            if segment.pruned_at is not None and not Path(segment.path).is_file():
                raise StoreError(
                    f"{segment.path}, which holds events {segment.first} to {segment.last} of run {run.id}, is not there",
                    hint="put it back, e.g. from the folder archives of a backup; verify and a whole fold need it",
                )


def _snapshot(database: Database) -> str:
    """From where a restart of the last live run would go on."""
    run = next((run for run in list_runs(database) if run.kind is RunKind.LIVE), None)
    if run is None or run.status is RunStatus.COMPLETE:
        return ""
    newest = next(iter(list_snapshots(database, run.id)), None)
    return (
        f"; the last snapshot covers {newest.seq:,} events"
        if newest
        else "; without a snapshot: a restart folds the whole journal"
    )


def _model(config: Config) -> str:
    from models.sentiment import model_dir
    from models.sentiment.serve.scorer import Scorer

    scorer = Scorer.load(model_dir(config.model.path), threads=config.model.threads or None)
    began = time.perf_counter()
    (score,) = scorer.score([_HEADLINE])
    took = (time.perf_counter() - began) * 1000
    return f"{config.model.path} ({scorer.fingerprint[:12]}) scores a headline in {took:.1f} ms: bullish {score.bullish:.2f}"


async def _skew(config: Config, clock: Clock) -> str:
    """The exchange's time against ours in the middle of the round trip."""
    base = endpoint(config.bybit.endpoint).rest
    timeout = aiohttp.ClientTimeout(total=config.bybit.rest_timeout / 1000)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=not is_loopback(base)) as session:
        before = clock.now()
        async with session.get(f"{base}/v5/market/time") as response:
            body, after = await response.read(), clock.now()
    try:
        theirs = int(msgspec.json.decode(body)["result"]["timeNano"]) // 1_000_000
    except (*JSON_DECODE_ERRORS, KeyError, TypeError, ValueError):
        raise VenueError(
            f"{base} answered HTTP {response.status}, and no time", hint="is bybit.endpoint right?"
        ) from None
    skew = (before + after) // 2 - theirs
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
            found = await history.bars(symbol, market.interval, since)
            if not found.bars:
                raise VenueError(
                    f"no bars of {symbol} since {iso(since)}", hint="is it traded, and the clock right?"
                )
    return f"{', '.join(market.symbols)}: the last bar closed at {found.bars[-1].close:g}"


async def _websocket(config: Config, clock: Clock) -> str:
    """Connect, subscribe to everything, and see what the venue accepts."""
    market = config.market
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    health = KlineHealth("doctor")
    url = f"{endpoint(config.bybit.endpoint).stream}/v5/public/{market.category}"
    topics = [f"kline.{interval_code(market.interval)}.{symbol}" for symbol in market.symbols]

    async def ignore(frame: Frame) -> None: ...

    stream = Stream(
        url, topics, config.bybit, clock, health, ignore, lambda accepted: ready.set_result(len(accepted))
    )
    reading = asyncio.create_task(stream.run())
    try:
        either: set[asyncio.Future[Any]] = {reading, ready}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await reading  # it failed, and says why
        if health.rejected:
            raise VenueError(
                f"{url} refuses {', '.join(sorted(health.rejected))}", hint="see market.symbols and interval"
            )
        return f"{url} accepts {ready.result()} topics"
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _feed(feed: FeedConfig, config: Config, clock: Clock, pool: ParserPool) -> str:
    """Read it once. A server may repeat what is secret of the feed's URL: that shows in no error."""
    secrets = secrets_in(feed.url)
    try:
        return await _read_feed(feed, config, clock, pool)
    except TapewireError as error:
        error.message, error.hint = mask_also(error.message, secrets), mask_also(error.hint, secrets)
        raise


async def _read_feed(feed: FeedConfig, config: Config, clock: Clock, pool: ParserPool) -> str:
    news, access = config.news, FeedAccess(feed.url, config.news.allow_private)
    async with access.session(news) as session:
        answer = await fetch(session, feed.url, news, clock, access=access)
    if answer.body is None:
        raise VenueError(f"{feed.url} answered HTTP {answer.status} without a document")
    document = await pool.parse(
        answer.body, url=without_secrets(answer.url), content_type=answer.content_type
    )
    if not document.entries:
        raise DataError(f"{feed.url} lists nothing", hint="is it the right address?")
    newest = max((entry.published for entry in document.entries if entry.published), default=None)
    return f"{len(document.entries)} entries, the newest of {iso(newest) if newest else 'an unknown time'}"


async def _at_venue(
    look: Callable[[VenuePort, Config, Clock], Awaitable[str]], config: Config, clock: Clock
) -> str:
    """A look by a port of its own."""
    check_venue(config)
    port = venue_port(config, clock)
    if port is None:
        raise ConfigError("execution.mode is paper")
    try:
        async with asyncio.timeout(config.execution.testnet.start_within / 1000):
            return await look(port, config, clock)
    finally:
        await port.close()


async def _venue_clock(port: VenuePort, config: Config, clock: Clock) -> str:
    """The venue can be reached, and its time; asked without keys."""
    before = clock.now()
    theirs = await port.server_time()
    skew, most = (before + clock.now()) // 2 - theirs, config.execution.testnet.max_skew
    if abs(skew) > most:
        raise VenueError(
            f"this machine's clock is {abs(skew)} ms {'ahead of' if skew > 0 else 'behind'} the venue's, more than is corrected",
            hint="synchronise it by NTP",
        )
    return f"{config.execution.testnet.venue} answers, {skew:+d} ms off"


async def _keys(port: VenuePort, config: Config, _: Clock) -> str:
    """A signed question."""
    balances = (await port.wallet()).balances
    coin = config.account.currency
    return f"they are accepted: {balances.get(coin, 0):,.2f} {coin} in the account"


async def _positions(port: VenuePort, config: Config, _: Clock) -> str:
    """Rules and position mode of each symbol, and what the account holds already."""
    rules = await port.rules(config.market.symbols)
    for symbol in config.market.symbols:
        check_rules(instrument_for(symbol, config), rules.get(symbol), config.execution.testnet.venue)
    if config.market.category == "linear":
        hedged = [symbol for symbol in config.market.symbols if await port.position_mode(symbol) == "hedge"]
        if hedged:
            raise VenueError(
                f"{', '.join(hedged)} in hedge mode", hint="the agent asks for one-way mode when it starts"
            )
    positions, orders = await port.positions(), await port.open_orders()
    return f"rules fit, one-way mode; {len(positions)} positions and {len(orders)} open orders in the account"


_VENUE: Final = {"venue": _venue_clock, "keys": _keys, "account": _positions}
_MARKET: Final = {"clock": _skew, "history": _history, "websocket": _websocket}
