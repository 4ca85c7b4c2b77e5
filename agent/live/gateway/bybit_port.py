"""`VenuePort` on Bybit v5: ccxt signs the requests, which go over connections that reach allowed hosts only.

Return codes are mapped to errors here and nowhere else: https://bybit-exchange.github.io/docs/v5/error.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, Never

import aiohttp
import ccxt.async_support as ccxt
import msgspec
from yarl import URL

from agent.config.execution import TestnetConfig
from agent.core.errors import ConfigError
from agent.core.events import DAY_MS, Order, OrderStatus, OrderType, Side
from agent.live.gateway.allowlist import check, guarded_session
from agent.live.gateway.credentials import Credentials
from agent.live.gateway.order_requests import decimal_text, order_name, order_request
from agent.live.gateway.private_messages import (
    ExecutionJson,
    InstrumentJson,
    OrderJson,
    PositionJson,
    WalletJson,
    read_list,
)
from agent.live.gateway.private_stream import PrivateStream
from agent.live.gateway.venue_port import (
    AuthenticationError,
    ClockSkewError,
    Duplicate,
    Execution,
    OrderNotFound,
    OrderRef,
    OrderRejected,
    OutcomeUnknown,
    PortError,
    PositionMode,
    PrivateMessage,
    RateLimited,
    VenueOrder,
    VenuePosition,
    VenueRules,
    Wallet,
)
from agent.live.market_data.bybit_stream import HandshakeRejected, StreamLost
from agent.system.backoff import Budget
from agent.system.clock import Clock
from agent.system.secret import MASK
from agent.system.untrusted import JSON_DECODE_ERRORS

Json = dict[str, Any]
_BASES: Final = {
    "testnet": ("https://api-testnet.bybit.com", "wss://stream-testnet.bybit.com"),
    "demo": ("https://api-demo.bybit.com", "wss://stream-demo.bybit.com"),
}
_KEYS: Final = frozenset({10003, 10004, 10005, 10007, 10010, 10028, 10032, 33004})
_UNKNOWN: Final = frozenset({10000, 10016, 170007, 170146, 170147})
_LIMITS: Final = frozenset({10006, 10018, 10429, 110079})  # 110079: the order is still being processed
_DUPLICATES: Final = frozenset({110072, 170141})
_NOT_FOUND: Final = frozenset({110001, 110008, 110010, 170142, 170143, 170190, 170213})
_UNCHANGED: Final = frozenset({110025, 110043})
_NOT_MODIFIED: Final = 34040
_PER_SECOND: Final = {"linear": 10, "spot": 20}
"""Orders, cancels and other changes, each; a response's header may grant more."""
_QUERIES: Final = 50
_SECOND: Final = 1.1  # requests may arrive closer together than they were sent
_WINDOW_MS: Final = 7 * DAY_MS - 1  # of executions in one query
_COIN: Final = "USDT"
_MAX_PAGES: Final = 1_000


class _Signer(ccxt.bybit):  # type: ignore[misc]
    """ccxt's Bybit with the port's transport, keys and clock."""

    def __init__(self, port: BybitPort, base: str) -> None:
        self._port = port
        super().__init__({"enableRateLimit": False, "timeout": 60_000})
        self.urls["api"] = {"public": base, "private": base}
        self.options["recvWindow"] = port.config.recv_window

    @property
    def apiKey(self) -> str:
        """The key, under ccxt's name."""
        return self._port.credentials.key.reveal()

    @property
    def secret(self) -> str:
        """The secret, under ccxt's name."""
        return self._port.credentials.secret.reveal()

    def milliseconds(self) -> int:
        """Return the time with which requests are stamped."""
        return self._port.now()

    async def fetch(
        self, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> Json:
        """Send a request through the port, without ccxt's own transport, proxies and redirects."""
        return await self._port.request(url, method, headers or {}, body)


class BybitPort:
    """One unified account in one category, `linear` or `spot`.

    Raises SafetyError if the venue isn't allowed.
    """

    def __init__(self, config: TestnetConfig, category: str, credentials: Credentials, clock: Clock) -> None:
        self.config = config
        self.credentials = credentials
        rest, stream = _BASES.get(config.venue) or (config.venue, config.venue.replace("http", "ws", 1))
        check(rest), check(stream)
        self._category = category
        self._clock = clock
        self._skew = 0
        self._stream_url = f"{stream.rstrip('/')}/v5/private"
        self._signer: Any = _Signer(self, rest.rstrip("/"))
        self._session: aiohttp.ClientSession | None = None
        self._budgets: dict[str, Budget] = {}
        self._limits: dict[str, int] = {}

    # -- transport -------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the venue's time as far as it was measured, UTC ms."""
        return self._clock.now() + self._skew

    async def request(self, url: str, method: str, headers: Mapping[str, str], body: str | None) -> Json:
        """Send a request that ccxt has signed; return the decoded response.

        Raises PortError, or SafetyError before anything is sent.
        """
        check(url)
        if self._session is None or self._session.closed:
            self._session = guarded_session()
        try:
            async with (
                asyncio.timeout(self.config.request_timeout / 1000),
                self._session.request(
                    method,
                    URL(url, encoded=True),
                    data=body.encode() if body else None,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                payload, status, received = await response.read(), response.status, response.headers
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(
                f"no response from the venue: {str(error) or type(error).__name__}"
            ) from None
        return self._read(URL(url).path, status, received, payload)

    def _read(self, path: str, status: int, headers: Mapping[str, str], payload: bytes) -> Json:
        if status == 403:
            ban = self.config.ban_wait / 1000
            raise RateLimited("the venue has banned this address (HTTP 403)", ban, code=403, banned=True)
        if status == 429:
            raise RateLimited("too many requests (HTTP 429)", 1.0, code=429)
        try:
            response = msgspec.json.decode(payload, type=dict[str, Any])
            code = int(response["retCode"])
        except (*JSON_DECODE_ERRORS, KeyError, TypeError, ValueError):
            if 300 <= status < 400:
                reason = "the venue responds with a redirect, which is not followed"
                raise OrderRejected(reason, code=status) from None
            raise OutcomeUnknown(f"HTTP {status} without a readable response", code=status) from None
        self._update_limit(path, headers, response, code)
        if code:
            raise self._error(code, self._masked(str(response.get("retMsg", "")))[:200], headers, response)
        return response

    def _masked(self, text: str) -> str:
        """Mask our keys: the venue repeats the request if a signature is wrong."""
        for secret in self.credentials:
            text = text.replace(secret.reveal(), MASK)
        return text

    def _update_limit(self, path: str, headers: Mapping[str, str], response: Json, code: int) -> None:
        """Adopt the rate limit in a response; if it is used up, pause this path until it is reset."""
        limit, left = headers.get("X-Bapi-Limit", ""), headers.get("X-Bapi-Limit-Status", "")
        if limit.isdecimal() and int(limit) > 0 and self._limits.get(path) != int(limit):
            self._limits[path] = int(limit)
            self._budgets[path] = Budget(int(limit), _SECOND)
        if left == "0" or code == 10006:
            wait = _until_reset(headers, response)
            self._budget(path).close(asyncio.get_running_loop().time() + wait)

    def _budget(self, path: str) -> Budget:
        if path not in self._budgets:
            changing = path.startswith(("/v5/order/c", "/v5/order/a", "/v5/position/s", "/v5/position/t"))
            self._budgets[path] = Budget(_PER_SECOND[self._category] if changing else _QUERIES, _SECOND)
        return self._budgets[path]

    @staticmethod
    def _error(code: int, text: str, headers: Mapping[str, str], response: Json) -> PortError:
        message = f"{text or 'refused'} (retCode {code})"
        if code in _LIMITS:
            return RateLimited(message, _until_reset(headers, response), code=code)
        kinds = (
            (_KEYS, AuthenticationError),
            (_UNKNOWN, OutcomeUnknown),
            (_DUPLICATES, Duplicate),
            (_NOT_FOUND, OrderNotFound),
            (frozenset({10002}), ClockSkewError),
        )
        kind = next((kind for codes, kind in kinds if code in codes), OrderRejected)
        return kind(message, code=code)

    async def _call(self, verb: str, path: str, params: Json) -> Any:
        """Send one request; return the response's `result`."""
        await self._budget(f"/v5/{path}").take()
        private = "public" if path.startswith("market/") else "private"
        response = await self._signer.request(f"v5/{path}", [private], verb, params)
        result = response.get("result") or {}
        if not isinstance(result, dict):
            raise OutcomeUnknown(f"{path}: the response's result is not an object")
        return result

    async def _get(self, path: str, **params: object) -> Any:
        given = {key: value for key, value in params.items() if value not in (None, "")}
        return await self._call("GET", path, given)

    async def _post(self, path: str, **params: object) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        return await self._call("POST", path, {"category": self._category, **given})

    async def _pages(self, kind: type[Any], path: str, limit: int, **params: object) -> list[Any]:
        """Return all pages of a list, in the venue's order."""
        found: list[Any] = []
        cursor, seen = "", set[str]()
        while True:
            result = await self._get(path, category=self._category, limit=limit, cursor=cursor, **params)
            found += self._read_list(kind, path, result)
            cursor = str(result.get("nextPageCursor") or "")
            if not cursor:
                return found
            if cursor in seen or len(seen) == _MAX_PAGES:
                raise OutcomeUnknown(f"{path}: the list does not end")
            seen.add(cursor)

    def _read_list(self, kind: type[Any], path: str, result: Any) -> list[Any]:
        try:
            return read_list(kind, result.get("list", []), self._category)
        except ValueError as error:
            raise OutcomeUnknown(f"{path}: the response can't be read: {error}") from None

    # -- time and rules --------------------------------------------------------------------------------------

    async def server_time(self) -> int:
        result = await self._get("market/time")
        try:
            return int(result["timeNano"]) // 1_000_000
        except (KeyError, TypeError, ValueError, OverflowError):
            raise OutcomeUnknown("market/time: the response states no time") from None

    def correct_clock(self, skew: int) -> None:
        self._skew = skew

    async def rules(self, symbols: Sequence[str]) -> dict[str, VenueRules]:
        known: dict[str, VenueRules] = {}
        for symbol in symbols:
            try:
                result = await self._get("market/instruments-info", category=self._category, symbol=symbol)
            except OrderRejected:
                continue
            known |= dict(self._read_list(InstrumentJson, "market/instruments-info", result))
        return known

    # -- orders ----------------------------------------------------------------------------------------------

    async def create(self, order: Order) -> str:
        result = await self._post("order/create", **order_request(order, self._category))
        return str(result.get("orderId", ""))

    async def amend(
        self, order: OrderRef, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        try:
            await self._post(
                "order/amend", **order_name(order), qty=decimal_text(qty), price=decimal_text(price)
            )
        except OrderRejected as error:
            if "remains unchanged" not in error.message and "not modified" not in error.message:
                raise

    async def cancel(self, order: OrderRef) -> None:
        await self._post("order/cancel", **order_name(order))

    async def cancel_all(self, symbol: str) -> None:
        await self._post("order/cancel-all", symbol=symbol)
        if self._category == "linear":
            with suppress(OrderNotFound):  # without a position
                await self.set_trailing_stop(symbol, Decimal(0))

    async def set_trailing_stop(self, symbol: str, distance: Decimal) -> None:
        try:
            await self._post(
                "position/trading-stop",
                symbol=symbol,
                positionIdx=0,
                tpslMode="Full",
                trailingStop=decimal_text(distance),
            )
        except OrderRejected as error:
            if "zero position" in error.message:
                raise OrderNotFound(error.message, code=error.code) from None
            if error.code != _NOT_MODIFIED and "not modified" not in error.message:
                raise

    async def find_trailing_stop(self, symbol: str, since: int) -> VenueOrder | None:
        positions: list[VenuePosition] = await self._pages(PositionJson, "position/list", 200, symbol=symbol)
        held = next((one for one in positions if one.qty and one.trail), None)
        if held is not None:
            side, kind = Side.SELL if held.qty > 0 else Side.BUY, OrderType.TRAILING_STOP
            working, qty = OrderStatus.UNTRIGGERED, abs(held.qty)
            order = VenueOrder("", "", symbol, side, kind, working, qty, Decimal(0), reduce_only=True)
            return msgspec.structs.replace(order, trailing=True, trail=held.trail)
        for path in ("order/realtime", "order/history"):
            orders: list[VenueOrder] = await self._pages(OrderJson, path, 50, symbol=symbol)
            made = [one for one in orders if one.trailing and one.created >= since]
            if made:
                return max(made, key=lambda one: one.created)
        return None

    async def find(self, order: OrderRef) -> VenueOrder | None:
        for path in ("order/realtime", "order/history"):
            found = await self._pages(OrderJson, path, 50, **order_name(order))
            if found:
                newest: VenueOrder = found[0]
                return newest
        return None

    async def open_orders(self) -> list[VenueOrder]:
        orders: list[VenueOrder] = await self._pages(
            OrderJson, "order/realtime", 50, openOnly=0, **self._scope()
        )
        return [order for order in orders if not order.status.final]

    async def executions(self, since: int) -> list[Execution]:
        found: list[Execution] = []
        until = self.now() + 60_000
        for start in range(since, until + 1, _WINDOW_MS + 1):
            end = min(start + _WINDOW_MS, until)
            page: list[Execution] = await self._pages(
                ExecutionJson, "execution/list", 100, startTime=start, endTime=end
            )
            found += reversed(page)
        return found

    # -- account ---------------------------------------------------------------------------------------------

    async def positions(self) -> list[VenuePosition]:
        if self._category == "spot":
            return []
        rows: list[VenuePosition] = await self._pages(PositionJson, "position/list", 200, **self._scope())
        net: dict[str, VenuePosition] = {}
        for row in rows:
            if row.qty:
                net[row.symbol] = row
        return list(net.values())

    async def wallet(self) -> Wallet:
        result = await self._get("account/wallet-balance", accountType="UNIFIED")
        wallets: list[Wallet] = self._read_list(WalletJson, "account/wallet-balance", result)
        if len(wallets) != 1:
            raise OutcomeUnknown(f"account/wallet-balance: {len(wallets)} accounts instead of one")
        return wallets[0]

    async def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        value = decimal_text(leverage)
        await self._set("position/set-leverage", symbol=symbol, buyLeverage=value, sellLeverage=value)

    async def position_mode(self, symbol: str) -> PositionMode:
        result = await self._get("position/list", category=self._category, symbol=symbol)
        try:
            return "hedge" if any(row.get("positionIdx") for row in result.get("list", [])) else "one-way"
        except (AttributeError, TypeError):
            raise OutcomeUnknown("position/list: the response can't be read") from None

    async def use_one_way(self, symbol: str) -> None:
        await self._set("position/switch-mode", symbol=symbol, mode=0)

    async def _set(self, path: str, **params: object) -> None:
        """Change a setting; it is not an error if it has the value already."""
        try:
            await self._post(path, **params)
        except OrderRejected as error:
            if error.code not in _UNCHANGED:
                raise

    def _scope(self) -> dict[str, str]:
        return {"settleCoin": _COIN} if self._category == "linear" else {}

    # -- the private stream ----------------------------------------------------------------------------------

    async def stream(
        self, on_message: Callable[[PrivateMessage], None], on_connected: Callable[[], None]
    ) -> Never:
        stream = PrivateStream(
            self._stream_url,
            self._category,
            self.config,
            self._clock,
            self._auth_args,
            on_message,
            on_connected,
        )
        try:
            await stream.run()
        except HandshakeRejected as error:
            raise RateLimited(error.message, error.wait, banned=error.wait > 0) from error
        except StreamLost as error:
            if stream.refusal:
                reason = self._masked(stream.refusal)
                raise AuthenticationError(f"the private stream rejects the keys: {reason}") from None
            raise OutcomeUnknown(error.message) from error

    def _auth_args(self) -> list[object]:
        expires = self.now() + self.config.open_timeout
        key, secret = self.credentials
        signed = hmac.new(secret.reveal().encode(), f"GET/realtime{expires}".encode(), hashlib.sha256)
        return [key.reveal(), expires, signed.hexdigest()]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _until_reset(headers: Mapping[str, str], response: Json) -> float:
    """Return the seconds until the limit is reset by the venue's clock; 1 if that is not stated."""
    reset, now = headers.get("X-Bapi-Limit-Reset-Timestamp", ""), response.get("time")
    if reset.isdecimal() and isinstance(now, int):
        return min(max((int(reset) - now) / 1000, 0.05), 10.0)
    return 1.0


def open_port(config: TestnetConfig, category: str, credentials: Credentials, clock: Clock) -> BybitPort:
    """Open the port to the account of a category.

    Raises ConfigError for a category without private requests.
    """
    if category not in _PER_SECOND:
        raise ConfigError(f"market.category is {category}, which no testnet trades", hint="linear or spot")
    return BybitPort(config, category, credentials, clock)
