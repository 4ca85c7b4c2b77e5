"""Targets: readers of untrusted input as functions of bytes that raise only their expected errors.

A target runs the product's own code with its error handlers but without transport: bytes come from here
instead of a socket. Its expected errors are those that the module documents; every other exception is a
finding.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from agent.config import Config, load
from agent.config.execution import TestnetConfig
from agent.config.live import BybitConfig
from agent.config.services import MqttConfig, WorkersConfig
from agent.core.errors import ConfigError, DataError, TapewireError, VenueError
from agent.core.events import Order, OrderType, Side
from agent.dashboard.websocket import decode_selection
from agent.data.funding import FundingFile
from agent.data.klines import KlineFile
from agent.data.news import NewsFile
from agent.data.sentiment import SentimentFile
from agent.live.control_socket import ControlReply, ControlRequest, control_socket
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.live.gateway.private_stream import PrivateStream
from agent.live.gateway.venue_port import OrderRef, PortError
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.bybit_stream import BybitStream, KlineHealth
from agent.live.market_data.connection_shard import ConnectionShard
from agent.live.market_data.kline_series import KlineSeries
from agent.live.news.feed_parser import parse_feed
from agent.live.scoring import SentimentHealth
from agent.live.services.mqtt.connection import MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import CommandBody, Topics
from agent.live.services.mqtt.signing import ForgedError, ReplayGuard, _mac
from agent.live.services.mqtt.worker_pool import WorkerPool
from agent.system.backoff import Budget
from agent.system.secret import Secret
from tests.conftest import ROOT
from tests.fuzz.corruption import Corruptor, corrupt_bytes, corrupt_json, corrupt_lines, corrupt_tokens
from tests.fuzz.parquet_corruption import corrupt_columns

NOW: Final = 1_741_000_000_000
MINUTE: Final = 60_000


@dataclass(frozen=True)
class FuzzTarget:
    """`read` takes a document and may raise `expected_errors` only; `seeds` are valid documents,
    `corruptors` corrupt them.
    """

    read: Callable[[bytes], object]
    expected_errors: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    corruptors: Sequence[Corruptor]


class _FixedClock:
    def now(self) -> int:
        return NOW


class _End(Exception):
    """All frames have been read."""


class _Frames:
    """The reading end of a WebSocket."""

    def __init__(self, frames: Iterable[bytes]) -> None:
        self._frames = iter(frames)

    async def recv(self, decode: bool) -> bytes:
        for frame in self._frames:
            return frame
        raise _End


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


def _await(work: Any) -> Any:
    return _runner().run(work)


def _json(*documents: object) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


@cache
def _history() -> KlineHistory:
    return KlineHistory(
        BybitConfig(), "linear", _FixedClock(), Budget(1_000_000, 0.0)
    )  # creating the ccxt client is slow


# -- the public and the private stream ---------------------------------------------------------------------


async def _ignore(*_: object) -> None:
    """Take an event and do nothing."""


async def _read_stream(stream: BybitStream, frame: bytes) -> None:
    try:
        await stream._read(_Frames([frame, frame]))  # type: ignore[arg-type]
    except _End:
        return


def read_public_frame(frame: bytes) -> None:
    """Read a frame of the venue's public stream, validate it, and add it to its series."""

    async def read() -> None:
        config, clock, health = BybitConfig(), _FixedClock(), KlineHealth("klines")
        series = {
            f"kline.1.{symbol}": KlineSeries(symbol, MINUTE, NOW - NOW % MINUTE - 5 * MINUTE)
            for symbol in ("BTCUSDT", "ETHUSDT")
        }
        for one in series.values():
            one.live = True
        shard = ConnectionShard(
            series, config, "linear", clock, _history(), health, _ignore, random.Random(0)
        )
        stream = BybitStream(
            "ws://127.0.0.1:1/v5/public/linear",
            [*series],
            config,
            clock,
            health,
            shard._on_data,
            lambda _: None,
        )
        await _read_stream(stream, frame)

    _await(read())


def read_private_frame(frame: bytes) -> None:
    """Read a frame of the testnet's private stream."""

    async def read() -> None:
        stream = PrivateStream(
            "ws://127.0.0.1:1/v5/private",
            "linear",
            TestnetConfig(),
            _FixedClock(),
            list,
            lambda _: None,
            lambda: None,
        )
        await _read_stream(stream, frame)

    _await(read())


_BAR: Final = {
    "start": NOW - NOW % MINUTE - MINUTE,
    "end": NOW - NOW % MINUTE - 1,
    "interval": "1",
    "open": "100.5",
    "close": "101",
    "high": "102",
    "low": "99.5",
    "volume": "3.25",
    "turnover": "327.1",
    "confirm": True,
    "timestamp": NOW,
}
_ORDER: Final = {
    "category": "linear",
    "symbol": "BTCUSDT",
    "orderId": "o-1",
    "orderLinkId": "mine-1",
    "side": "Buy",
    "orderType": "Limit",
    "orderStatus": "PartiallyFilled",
    "price": "100.5",
    "qty": "2",
    "cumExecQty": "0.5",
    "triggerPrice": "",
    "reduceOnly": False,
    "rejectReason": "EC_NoError",
    "createdTime": str(NOW - 500),
    "updatedTime": str(NOW),
}
_EXECUTION: Final = {
    "category": "linear",
    "symbol": "BTCUSDT",
    "execId": "e-1",
    "orderId": "o-1",
    "orderLinkId": "mine-1",
    "side": "Sell",
    "execQty": "0.5",
    "execPrice": "100.5",
    "execFee": "0.02",
    "feeRate": "0.00055",
    "feeCurrency": "",
    "execType": "Trade",
    "execTime": str(NOW),
    "isMaker": False,
}
_POSITION: Final = {
    "category": "linear",
    "symbol": "BTCUSDT",
    "side": "Buy",
    "size": "0.5",
    "entryPrice": "100",
    "avgPrice": "100",
    "positionIdx": 0,
}
_WALLET: Final = {
    "accountType": "UNIFIED",
    "coin": [{"coin": "USDT", "walletBalance": "1000.25"}, {"coin": "BTC", "walletBalance": ""}],
}
_PUBLIC: Final = _json(
    {"topic": "kline.1.BTCUSDT", "type": "snapshot", "ts": NOW, "data": [_BAR]},
    {"topic": "kline.1.ETHUSDT", "type": "snapshot", "ts": NOW, "data": [_BAR, _BAR | {"confirm": False}]},
    {"success": True, "ret_msg": "", "conn_id": "c", "req_id": "1", "op": "subscribe"},
    {"success": True, "ret_msg": "pong", "conn_id": "c", "req_id": "", "op": "ping"},
)
_PRIVATE: Final = _json(
    *(
        {"id": "1", "topic": topic, "creationTime": NOW, "data": [item]}
        for topic, item in (
            ("order", _ORDER),
            ("execution", _EXECUTION),
            ("position", _POSITION),
            ("wallet", _WALLET),
        )
    )
)

# -- REST ---------------------------------------------------------------------------------------------------


class _FixedResponsePort(BybitPort):
    """Port with one fixed response to every request and no rate limit."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(
            TestnetConfig(), "linear", Credentials(Secret("key"), Secret("secret")), _FixedClock()
        )
        self._payload = payload

    async def request(
        self, url: str, method: str, headers: Mapping[str, str], body: str | None
    ) -> dict[str, Any]:
        return self._read("/v5/any", 200, {}, self._payload)

    def _budget(self, path: str) -> Budget:
        return Budget(1_000_000, 0.0)


@cache
def _port() -> _FixedResponsePort:
    return _FixedResponsePort(b"")  # creating the ccxt client is slow


def query_port(payload: bytes) -> None:
    """Send every request of the gateway, each with this response."""
    port = _port()
    port._payload = payload
    order = Order("mine-1", "BTCUSDT", NOW, Side.BUY, OrderType.MARKET, qty=TestnetConfig().wallet_drift)
    ref = OrderRef("BTCUSDT", "mine-1")

    async def rules() -> None:
        for rule in (await port.rules(["BTCUSDT"])).values():
            assert all(number.is_finite() and number >= 0 for number in rule), (
                rule
            )  # comparisons with other values would fail much later
            assert min(rule.tick_size, rule.qty_step) > 0, rule

    async def ask() -> None:
        queries: tuple[Callable[[], Any], ...] = (
            port.server_time,
            rules,
            lambda: port.create(order),
            lambda: port.cancel(ref),
            lambda: port.amend(ref, qty=order.qty),
            lambda: port.find(ref),
            port.open_orders,
            lambda: port.executions(NOW - MINUTE),
            port.positions,
            port.wallet,
            lambda: port.position_mode("BTCUSDT"),
            lambda: port.use_one_way("BTCUSDT"),
        )
        for query in queries:
            try:
                await query()
            except PortError as error:
                _format_error(error)

    _await(ask())


def _response(result: object, code: int = 0) -> dict[str, object]:
    return {"retCode": code, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOW}


_INSTRUMENT: Final = {
    "symbol": "BTCUSDT",
    "priceFilter": {"tickSize": "0.1"},
    "lotSizeFilter": {"qtyStep": "0.001", "minOrderQty": "0.001", "minNotionalValue": "5"},
}
_RESPONSES: Final = _json(
    *(
        _response(
            {
                "list": [item],
                "category": "linear",
                "nextPageCursor": "",
                "timeNano": str(NOW * 1_000_000),
                "orderId": "o-1",
            }
        )
        for item in (_ORDER, _EXECUTION, _POSITION, _WALLET, _INSTRUMENT)
    ),
    _response({}, 110001),
    _response({}, 10006),
)


def query_history(payload: bytes) -> None:
    """Request REST history with this response to the first page, as ccxt would read it."""

    history, requests = _history(), 0
    exchange = history._exchange

    async def fetch(url: str, method: str = "GET", headers: object = None, body: object = None) -> Any:
        nonlocal requests
        requests += 1
        assert requests < 10, "too many pages"
        text = payload.decode(errors="replace")
        response = exchange.parse_json(text)
        exchange.handle_errors(200, "OK", url, method, {}, text, response, {}, None)
        return text if response is None else response

    exchange.fetch = fetch
    _await(history.fetch("BTCUSDT", MINUTE, NOW - NOW % MINUTE - 3 * MINUTE))


_PAGE: Final = _json(
    _response(
        {
            "symbol": "BTCUSDT",
            "category": "linear",
            "list": [
                [str(NOW - NOW % MINUTE - ago * MINUTE), "100", "102", "99", "101", "3", "300"]
                for ago in (1, 2, 3)
            ],
        }
    ),
    _response({}, 10001),
)

# -- documents ----------------------------------------------------------------------------------------------


def read_feed(document: bytes) -> None:
    """RSS or Atom."""
    parse_feed(document, url="https://feed.example/rss")


_FEEDS: Final = (
    b"""<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:media="http://search.yahoo.com/mrss/">\
<channel><title>Harbour Wire</title>
<link>https://feed.example/</link><ttl>5</ttl>
<item><title>Bitcoin climbs &amp; ether rests</title><link>https://feed.example/1</link>\
<guid isPermaLink="false">a-1</guid>
<pubDate>Mon, 03 Mar 2025 00:04:37 GMT</pubDate>\
<description><![CDATA[<p>Buyers &lt;return&gt; after a <b>slow</b> weekend.</p>]]></description>
<media:thumbnail url="https://feed.example/1.png" width="10"/>\
<source url="https://other.example/">Other Desk</source></item>
<item><title>Miners sell</title><link>https://feed.example/2</link>\
<dc:date>2025-03-03T01:00:00+01:00</dc:date></item></channel></rss>""",
    b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Desk</title><id>urn:desk</id>\
<updated>2025-03-03T00:00:00Z</updated>
<entry><title type="html">Rates &lt;i&gt;hold&lt;/i&gt;</title><id>urn:1</id>\
<link href="https://feed.example/3" rel="alternate"/>
<published>2025-03-03T00:04:37Z</published><updated>2025-03-03T00:05:00Z</updated>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>No change.</p></div></content>\
</entry></feed>""",
    b"""<!DOCTYPE rss [<!ENTITY a "word word"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<rss version="2.0"><channel><title>&b;</title><item><title>One &b; day</title>\
<link>https://feed.example/4</link></item></channel></rss>""",
)


def _in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], None]:
    def run(document: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / name
            path.write_bytes(document)
            read(path)

    return run


def _read_klines(path: Path) -> None:
    for _ in (file := KlineFile(path)):
        pass
    file.describe()


def _read_config(path: Path) -> None:
    config: Config = load(path)
    config.persisted(), config.deterministic_subset(), config.token_file()


def _lines(name: str, count: int) -> bytes:
    with (ROOT / "tests/sample_data" / name).open("rb") as file:
        return b"".join(line for line, _ in zip(file, range(count), strict=False))


def _parquet(table: pa.Table) -> bytes:
    pq.write_table(table, out := io.BytesIO(), row_group_size=10)
    return out.getvalue()


_KLINES: Final = _lines("BTCUSDT-1m.csv", 30)
_BINANCE: Final = b"".join(
    b"%d,100.5,102,99.5,101,3.25,%d,327.1,12,1.5,150,0\n" % (NOW + i * MINUTE, NOW + i * MINUTE + 59_999)
    for i in range(8)
)
_NEWS: Final = _lines("headlines.csv", 8)
_HEADLINES: Final = tuple(
    {
        "published_at": f"2025-03-03T00:0{i}:00Z",
        "title": f"Headline number {i}",
        "currencies": ["BTC"],
        "trusted_time": True,
        "id": f"n{i}",
    }
    for i in range(4)
)
_PROBABILITIES: Final = {"bearish": 0.1, "neutral": 0.2, "bullish": 0.7}
_SCORES: Final = tuple(
    line | {**_PROBABILITIES, "symbols": ["BTCUSDT"], "kind": "price", "kind_confidence": 0.5}
    for line in _HEADLINES
)
_ASSETS: Final = ({"BTC": _PROBABILITIES}, [{"asset": "BTC", **_PROBABILITIES}])
"""Both forms of the column `assets`; a parquet column holds one of them only."""
_FUNDING: Final = tuple({"ts": NOW + i * 28_800_000, "symbol": "BTCUSDT", "rate": "0.0001"} for i in range(4))

# -- commands -----------------------------------------------------------------------------------------------


def send_control_line(line: bytes) -> None:
    """Send a line to the real control socket. Every reply must be valid, and the server must serve the
    next client.
    """

    async def handle(request: ControlRequest, who: str) -> Any:
        if request.do not in ("status", "pause"):
            raise TapewireError(f"unknown command {request.do!r}")
        return request.args

    async def ask() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / "s"
            async with control_socket(path, handle):
                for sent in (line, b'{"do":"status"}'):
                    reader, writer = await asyncio.open_unix_connection(path)
                    replies = b""
                    try:
                        writer.write(sent + b"\n")
                        writer.write_eof()
                        replies = await reader.read()
                    except ConnectionError:
                        pass  # the line exceeds the limit, so the agent closes the connection
                    finally:
                        writer.close()
                    decoded = [
                        msgspec.json.decode(reply, type=ControlReply) for reply in replies.splitlines()
                    ]
                assert decoded == [ControlReply(True, {})]
        for context in failures:
            raise context.get("exception") or AssertionError(context["message"])

    _await(ask())


_SECRET: Final = Secret("a shared secret of some length")


def _signed(text: str) -> bytes:
    return msgspec.json.encode({"body": text, "mac": _mac(_SECRET, "command", text)})


def receive_command(payload: bytes) -> None:
    """Receive a broker's command: as a signed message, and as the body of a signed message."""
    guard = ReplayGuard(_SECRET, "tapewire", 30_000, NOW - MINUTE)
    for message in (payload, _signed(payload.decode(errors="replace"))):
        try:
            guard.admit(message, NOW)
        except ForgedError as error:
            _format_error(error)


_COMMAND: Final = CommandBody("tapewire", "pause", NOW, "n-1", {"reason": "lunch"}, "anna")


class _OwnModel:
    """The part of the agent's own model that the pool needs."""

    health = SentimentHealth("sentiment", model="m" * 64)
    fingerprint = health.model
    names = "n" * 64


def receive_worker_message(payload: bytes) -> None:
    """Receive a worker's presence and scores from the broker."""

    async def hear() -> None:
        config, topics, clock = MqttConfig(broker="mqtt://127.0.0.1:1"), Topics("tapewire"), _FixedClock()
        link = MqttLink(
            config,
            clock,
            "fuzz",
            lambda: RetainedPresence("tapewire/agent", None, None),  # type: ignore[arg-type]
        )
        pool = WorkerPool(
            WorkersConfig(),
            link,
            topics,
            _OwnModel(),  # type: ignore[arg-type]
            clock,
            capacity=10,
        )
        pool._on_presence(payload, False)
        pool._on_scores(payload, False)
        for scores in pool._received:
            await pool._handle_scores(scores, _ignore)  # type: ignore[arg-type]

    _await(hear())


_WORKERS: Final = _json(
    {"worker": "w-1", "state": "online", "model": "m" * 64, "version": 1},
    {
        "worker": "w-1",
        "model": "m" * 64,
        "scores": [{"id": "n", "bearish": 0.1, "neutral": 0.2, "bullish": 0.7, "abstained": False}],
    },
    {
        "worker": "w-2",
        "model": "m" * 64,
        "names": "n" * 64,
        "scores": [
            {
                "id": "n",
                "bearish": 0.1,
                "neutral": 0.2,
                "bullish": 0.7,
                "assets": [{"asset": "BTC", "bearish": 0.1, "neutral": 0.2, "bullish": 0.7}],
                "kind": "price",
                "kind_confidence": 0.5,
            }
        ],
    },
)


def receive_browser_message(message: bytes) -> None:
    """Receive a message from a dashboard page, as decoded by aiohttp."""
    decode_selection(message.decode(errors="replace"))


def _format_error(error: TapewireError) -> None:
    """Check that the error's message can be encoded."""
    str(error).encode(errors="replace")


_AS_JSON: Final = (corrupt_json, corrupt_json, corrupt_json, corrupt_bytes)
_AS_TEXT: Final = (corrupt_tokens, corrupt_tokens, corrupt_bytes)
_AS_LINES: Final = (corrupt_lines, corrupt_lines, corrupt_tokens, corrupt_bytes)

TARGETS: Final[Mapping[str, FuzzTarget]] = {
    "public-frame": FuzzTarget(read_public_frame, (), _PUBLIC, _AS_JSON),
    "private-frame": FuzzTarget(read_private_frame, (), _PRIVATE, _AS_JSON),
    "port-answer": FuzzTarget(query_port, (), _RESPONSES, _AS_JSON),
    "history-answer": FuzzTarget(query_history, (VenueError,), _PAGE, _AS_JSON),
    "feed": FuzzTarget(read_feed, (DataError,), _FEEDS, _AS_TEXT),
    "config": FuzzTarget(
        _in_file(_read_config, "config.toml"), (ConfigError,), [(ROOT / "config.toml").read_bytes()], _AS_TEXT
    ),
    "klines-csv": FuzzTarget(
        _in_file(_read_klines, "BTCUSDT-1m.csv"), (DataError,), [_KLINES, _BINANCE], _AS_TEXT
    ),
    "klines-parquet": FuzzTarget(
        _in_file(_read_klines, "BTCUSDT-1m.parquet"),
        (DataError,),
        [_parquet(pyarrow.csv.read_csv(io.BytesIO(_KLINES)))],
        (corrupt_columns, corrupt_columns, corrupt_bytes),
    ),
    "news-csv": FuzzTarget(
        _in_file(lambda path: list(NewsFile(path)), "news.csv"), (DataError,), [_NEWS], _AS_TEXT
    ),
    "news-jsonl": FuzzTarget(
        _in_file(lambda path: list(NewsFile(path)), "news.jsonl"),
        (DataError,),
        [b"\n".join(_json(*_HEADLINES))],
        _AS_LINES,
    ),
    "sentiment-jsonl": FuzzTarget(
        _in_file(lambda path: list(SentimentFile(path)), "scores.jsonl"),
        (DataError,),
        [b"\n".join(_json(*(line | {"assets": assets} for line in _SCORES))) for assets in _ASSETS],
        _AS_LINES,
    ),
    "sentiment-parquet": FuzzTarget(
        _in_file(lambda path: list(SentimentFile(path)), "scores.parquet"),
        (DataError,),
        [
            _parquet(pa.Table.from_pylist([line | {"assets": assets} for line in _SCORES]))
            for assets in _ASSETS
        ],
        (corrupt_columns, corrupt_columns, corrupt_bytes),
    ),
    "funding-jsonl": FuzzTarget(
        _in_file(lambda path: list(FundingFile(path)), "funding.jsonl"),
        (DataError,),
        [b"\n".join(_json(*_FUNDING))],
        _AS_LINES,
    ),
    "control": FuzzTarget(
        send_control_line,
        (),
        _json({"do": "status"}, {"do": "pause", "args": {"reason": "x"}, "token": "t"}),
        _AS_JSON,
    ),
    "command": FuzzTarget(
        receive_command,
        (),
        [msgspec.json.encode(_COMMAND), _signed(msgspec.json.encode(_COMMAND).decode())],
        _AS_JSON,
    ),
    "worker": FuzzTarget(receive_worker_message, (), _WORKERS, _AS_JSON),
    "browser": FuzzTarget(receive_browser_message, (), _json({"symbol": "BTCUSDT"}), _AS_JSON),
}
