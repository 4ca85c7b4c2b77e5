"""Public side of the venue: actual bars, their stream, and their history behind ccxt's endpoints."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import ccxt.async_support as ccxt
import msgspec
from msgspec.structs import replace
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Response

from agent.core.events import MINUTE_MS, Kline
from tests.simulation.fault_rates import FaultRates, Outage
from tests.simulation.generated_data import SYMBOLS, T0, random_walk, running_bar, utc

MINUTE: Final = MINUTE_MS / 1000
LAG: Final = 0.3  # maximum seconds from a bar's close until it is streamed
REST_LAG: Final = 1.9  # maximum seconds from a bar's close until REST has it; the agent allows two
BAN: Final = 600.0  # seconds without requests after HTTP 403
_PAST: Final = 2.0  # seconds
_PUSHES: Final = (0.01, 0.2, 0.6, 0.98)  # fractions of a bar at which its running state is pushed


class SimulatedMarket:
    """One market for all lives. Bar n of each symbol opens n minutes after `T0 - warm-up` on the loop's
    time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        rates: FaultRates,
        history: int,
        faulty: int,
        quiet: int,
        log: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.rates = rates
        self.log = log
        self.outages: list[Outage] = []
        self.bars: dict[tuple[str, int], Kline] = {}
        self.withheld: set[tuple[str, int]] = set()
        self.spikes = dict.fromkeys(SYMBOLS, 0)  # number of spikes
        self.banned_until = 0.0  # loop time until which the agent sends no requests
        self.trouble: dict[str, float] = dict.fromkeys(
            SYMBOLS, -1e9
        )  # symbol -> loop time until which history has failed
        self._first = T0 - history * MINUTE_MS
        for symbol in SYMBOLS:
            for bar in random_walk(rng, symbol, history + faulty + quiet, start=self._first):
                self.bars[symbol, bar.start] = bar
                if T0 <= bar.start < T0 + faulty * MINUTE_MS and rng.random() < rates.withhold:
                    self.withheld.add((symbol, bar.start))

    def now(self) -> int:
        """Return the venue's clock (UTC ms)."""
        return utc(self.loop.time())

    @property
    def unreachable(self) -> bool:
        """Whether an outage is in progress."""
        return any(one.begin <= self.loop.time() < one.end for one in self.outages)

    def latency(self) -> float:
        """Return a random network latency in seconds."""
        return 0.01 + 0.1 * self.rng.random() ** 3

    # -- stream ---------------------------------------------------------------------------------------------

    async def connect(self, url: str, **options: Any) -> SimulatedSocket:
        """Stand in for `websockets.connect`."""
        rng, rates = self.rng, self.rates
        await asyncio.sleep(self.latency())
        if self.unreachable:
            await asyncio.sleep(options["open_timeout"])
            raise TimeoutError
        if rng.random() < rates.refuse:
            self.log("connection refused")
            raise ConnectionRefusedError("refused")
        if rng.random() < rates.ban:
            self.log("handshake refused")
            code = rng.choice((403, 429, 503))
            if code == 403:
                self.banned_until = self.loop.time() + BAN
            raise InvalidStatus(Response(code, "no", Headers({"Retry-After": "5"} if code == 429 else {})))
        return SimulatedSocket(self)

    # -- history --------------------------------------------------------------------------------------------

    async def fetch_klines(self, params: dict[str, Any]) -> Any:
        """Stand in for ccxt's `publicGetV5MarketKline`."""
        rng, rates, symbol = self.rng, self.rates, params["symbol"]
        await self._travel(symbol)
        if rng.random() < rates.rest_slow:
            await asyncio.sleep(4 * rng.random())
        now = self.now()
        visible = now - round(1000 * REST_LAG * rng.random())
        rows = [
            [
                str(bar.start),
                *(str(v) for v in (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover)),
            ]
            for start in range(max(params["start"], self._first), min(params["end"], now) + 1, MINUTE_MS)
            if (bar := self.bars.get((symbol, start)))
            and (symbol, start) not in self.withheld
            and (bar.ts <= visible or bar.ts > now)
        ]
        response = {"retCode": 0, "result": {"symbol": symbol, "list": rows[::-1]}, "time": now}
        await asyncio.sleep(self.latency())
        if rng.random() < rates.rest_corrupt:
            self.log(f"history of {symbol}: corrupt")
            self._record_trouble(symbol)
            del response[rng.choice(("result", "time"))]
        return response

    async def fetch_time(self) -> Any:
        """Stand in for ccxt's `publicGetV5MarketTime`."""
        await self._travel("")
        now = self.now()
        await asyncio.sleep(self.latency())
        return {"retCode": 0, "result": {"timeSecond": str(now // 1000)}, "time": now}

    async def _travel(self, symbol: str) -> None:
        """Delay a request and raise its fault, if any. Requests for the time have no symbol."""
        await asyncio.sleep(self.latency())
        fault = self._fault()
        if fault is None:
            return
        symbols = [symbol] if symbol else []
        self.log(f"request for {symbol or 'the time'}: {fault}")
        for each in symbols:
            self._record_trouble(each)
        if isinstance(fault, ccxt.RequestTimeout):
            await asyncio.sleep(10)
            for each in symbols:
                self._record_trouble(each)
        elif isinstance(fault, ccxt.RateLimitExceeded):
            for each in SYMBOLS:  # the agent sends no requests during the wait
                self._record_trouble(each, BAN if "403" in str(fault) else 60)
            if "403" in str(fault):
                self.banned_until = self.loop.time() + BAN
        raise fault

    def _record_trouble(self, symbol: str, lasts: float = 0.0) -> None:
        self.trouble[symbol] = max(self.trouble[symbol], self.loop.time() + lasts)

    def _fault(self) -> Exception | None:
        rng, rates = self.rng, self.rates
        faults: tuple[Exception, ...] = ()
        if self.unreachable or rng.random() < rates.rest_timeout:
            faults = (ccxt.RequestTimeout("bybit GET timed out"),)
        elif rng.random() < rates.rest_error:
            faults = (
                ccxt.ExchangeNotAvailable("bybit GET 503"),
                ccxt.NetworkError("reset"),
                ccxt.ExchangeError("10016"),
            )
        elif rng.random() < rates.rest_limit:
            words = ("bybit GET 403 Forbidden", 'bybit {"retCode":10006}', "bybit GET 429 Too Many")
            faults = tuple(ccxt.RateLimitExceeded(word) for word in words)
        return rng.choice(faults) if faults else None


class SimulatedRest:
    """Stands in for the client made by `ccxt.bybit(…)`."""

    def __init__(self, market: SimulatedMarket) -> None:
        self.urls: dict[str, Any] = {}
        self.timeout_on_exit = 0
        self.publicGetV5MarketKline = market.fetch_klines
        self.publicGetV5MarketTime = market.fetch_time

    async def close(self) -> None:
        pass


class SimulatedSocket:
    """The client's end of one connection to the stream; the venue's end is driven by timers."""

    def __init__(self, market: SimulatedMarket) -> None:
        self._market = market
        self._inbox: deque[bytes] = deque()
        self._lost: BaseException | None = None
        self._filled = asyncio.Event()
        self._topics: list[str] = []
        self._silent = False
        self._last = 0.0  # arrival of the last message: a connection keeps its order

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disconnect()

    async def recv(self, *, decode: bool) -> bytes:
        """Return the next message."""
        while not self._inbox:
            if self._lost:
                raise self._lost
            self._filled.clear()
            await self._filled.wait()
        return self._inbox.popleft()

    async def send(self, message: str) -> None:
        """Send a message to the venue."""
        if self._lost:
            raise self._lost
        request = msgspec.json.decode(message)
        self._market.loop.call_later(self._market.latency(), self._on_request, request)

    # -- the venue's end ------------------------------------------------------------------------------------

    def _on_request(self, request: dict[str, Any]) -> None:
        if request["op"] == "ping":
            self._send({"op": "ping", "ret_msg": "pong", "success": True}, self._market.loop.time())
            return
        self._topics += request["args"]
        acknowledgement = {"op": "subscribe", "success": True, "ret_msg": "", "req_id": request["req_id"]}
        self._send(acknowledgement, self._market.loop.time())
        for topic in request["args"]:
            self._push_next(
                topic.removeprefix("kline.1."), self._market.now() - self._market.now() % MINUTE_MS
            )

    def _push_next(self, symbol: str, start: int) -> None:
        """Schedule the states of the bar that opens at `start`, then those of the next bar."""
        market = self._market
        bar = market.bars.get((symbol, start))
        if bar is None or self._lost:
            return
        opens = (start - T0) / 1000
        now = market.loop.time()
        for share in _PUSHES:
            if (
                opens + MINUTE * share > now - _PAST
            ):  # past states are not pushed after a subscription within a bar
                self._push_at(max(opens + MINUTE * share, now), running_bar(bar, share))
        closes = opens + MINUTE + LAG * market.rng.random()
        self._push_at(closes, bar)
        market.loop.call_at(closes, self._push_next, symbol, start + MINUTE_MS)

    def _push_at(self, at: float, bar: Kline) -> None:
        self._market.loop.call_at(at, self._push, at, bar)

    def _push(self, at: float, bar: Kline) -> None:
        """Push the state that was due at `at`, even if the agent's process was frozen meanwhile."""
        market, rng, rates = self._market, self._market.rng, self._market.rates
        if self._lost or (bar.symbol, bar.start) in market.withheld:
            return
        if rng.random() < rates.lose_connection:
            market.log("connection lost")
            self._disconnect()
            return
        if rng.random() < rates.silent:
            market.log("stream goes silent")
            self._silent = True
        if self._silent or rng.random() < rates.drop:
            market.log(f"dropped {bar.symbol} {'close' if bar.confirm else 'state'} of {bar.start}")
            return
        bar = self._distort(bar)
        row = {
            "start": bar.start,
            "end": bar.start + MINUTE_MS - 1,
            "interval": "1",
            "open": str(bar.open),
            "close": str(bar.close),
            "high": str(bar.high),
            "low": str(bar.low),
            "volume": str(bar.volume),
            "turnover": str(bar.turnover),
            "confirm": bar.confirm,
            "timestamp": bar.ts,
        }
        message = {
            "topic": f"kline.1.{bar.symbol}",
            "type": "snapshot",
            "ts": max(bar.ts, utc(at) - 5),
            "data": [row],
        }
        copies = 2 if rng.random() < rates.duplicate else 1
        for _ in range(copies):
            late = 20 * rng.random() if rng.random() < rates.delay else 0.0
            self._send(message, at + late, alone=rng.random() < rates.reorder)

    def _distort(self, bar: Kline) -> Kline:
        """Sometimes return a state with a far-off price, a closed bar with a false wick, or a bar from the
        future.
        """
        market = self._market
        rng, rates = market.rng, market.rates
        if rng.random() < rates.spike * (0.3 if bar.confirm else 1):
            # Two spikes in a row near the same level would be a real move
            market.spikes[bar.symbol] = number = market.spikes[bar.symbol] + 1
            factor = 1.3 ** (2 + number % 8)
            price = round(bar.close * (factor if number % 2 else 1 / factor), 1)
            market.log(f"spike of {bar.symbol} to {price}")
            high, low = max(bar.high, price), min(bar.low, price)
            return replace(bar, close=bar.close if bar.confirm else price, high=high, low=low)
        if bar.confirm and rng.random() < rates.ahead:
            later = rng.randrange(2, 50) * MINUTE_MS
            market.log(f"bar of {bar.symbol} {later} ms ahead")
            return replace(bar, start=bar.start + later, ts=bar.ts + later)
        return bar

    def _send(self, message: Any, at: float, *, alone: bool = False) -> None:
        """Send a message at `at`. Messages arrive in order, except those sent `alone`, which may overtake."""
        market = self._market
        encoded = msgspec.json.encode(message)
        if market.unreachable:
            return
        if market.rng.random() < market.rates.corrupt:
            market.log("message corrupt")
            cut = market.rng.randrange(len(encoded))
            # TLS protects against changed digits: damaged messages are truncated or not JSON
            encoded = encoded[:cut] + market.rng.choice((b"", b"\xff" + encoded[cut:]))
        arrives = at + market.latency()
        if not alone:
            arrives = self._last = max(arrives, self._last)
        market.loop.call_at(arrives, self._arrive, encoded)

    def _arrive(self, encoded: bytes) -> None:
        if self._lost is None:
            self._inbox.append(encoded)
            self._filled.set()

    def _disconnect(self) -> None:
        if self._lost is None:
            self._lost = ConnectionClosedError(None, None)
            self._filled.set()
