"""What reads the words of strangers, each as a function of bytes that raises nothing but `Refusal`s.

A target runs the product's own code, handlers of errors included, with the transport left out: bytes come from here instead of from
a socket. What a target may refuse with is the error that the module documents; everything else is a finding.
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
from agent.live.control_socket import Reply, Request, control_socket
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.live.gateway.private_stream import PrivateStream
from agent.live.gateway.venue_port import OrderRef, PortError
from agent.live.market_data.backfill import KlineHistory
from agent.live.market_data.connection_shard import Shard
from agent.live.market_data.kline_health import KlineHealth
from agent.live.market_data.kline_series import Series
from agent.live.market_data.public_stream import Stream
from agent.live.news.parse import parse
from agent.live.scoring import SentimentHealth
from agent.live.services.mqtt.connection import MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import CommandBody, Topics
from agent.live.services.mqtt.signing import ForgedError, ReplayGuard, _mac
from agent.live.services.mqtt.worker_pool import WorkerPool
from agent.system.backoff import Budget
from agent.system.secret import Secret
from tests.conftest import ROOT
from tests.fuzz.damage import Damage, in_bytes, in_json, in_lines, in_words
from tests.fuzz.parquet import in_columns

NOW: Final = 1_741_000_000_000
MINUTE: Final = 60_000


@dataclass(frozen=True)
class Target:
    """`read` takes a document and may raise `refusals` only; `sound` are documents it takes, `ways` how they are damaged."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    sound: Sequence[bytes]
    ways: Sequence[Damage]


class _Still:
    """A clock that stands."""

    def now(self) -> int:
        return NOW


class _End(Exception):
    """All frames were read."""


class _Frames:
    """The end of a WebSocket that we read from."""

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
    # ccxt's part of it takes long to make
    return KlineHistory(BybitConfig(), "linear", _Still(), Budget(1_000_000, 0.0))


# -- the public and the private stream ---------------------------------------------------------------------------------


async def _nothing(*_: object) -> None:
    """Whoever takes what comes out."""


async def _read_stream(stream: Stream, frame: bytes) -> None:
    try:
        await stream._read(_Frames([frame, frame]))  # type: ignore[arg-type]
    except _End:
        return


def read_public_frame(frame: bytes) -> None:
    """As it comes from the venue's public stream: read, judged, and put into its series."""

    async def read() -> None:
        config, clock, health = BybitConfig(), _Still(), KlineHealth("klines")
        series = {
            f"kline.1.{symbol}": Series(symbol, MINUTE, NOW - NOW % MINUTE - 5 * MINUTE)
            for symbol in ("BTCUSDT", "ETHUSDT")
        }
        for one in series.values():
            one.live = True
        shard = Shard(series, config, "linear", clock, _history(), health, _nothing, random.Random(0))
        stream = Stream(
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
    """As it comes from the testnet's private stream."""

    async def read() -> None:
        stream = PrivateStream(
            "ws://127.0.0.1:1/v5/private",
            "linear",
            TestnetConfig(),
            _Still(),
            list,
            lambda _: None,
            lambda: None,
        )
        await _read_stream(stream, frame)

    _await(read())


_BAR: Final = {
    "start": NOW - NOW % MINUTE - MINUTE, "end": NOW - NOW % MINUTE - 1, "interval": "1", "open": "100.5", "close": "101", "high": "102",
    "low": "99.5", "volume": "3.25", "turnover": "327.1", "confirm": True, "timestamp": NOW,
}  # fmt: skip
_ORDER: Final = {
    "category": "linear", "symbol": "BTCUSDT", "orderId": "o-1", "orderLinkId": "mine-1", "side": "Buy", "orderType": "Limit",
    "orderStatus": "PartiallyFilled", "price": "100.5", "qty": "2", "cumExecQty": "0.5", "triggerPrice": "", "reduceOnly": False,
    "rejectReason": "EC_NoError", "createdTime": str(NOW - 500), "updatedTime": str(NOW),
}  # fmt: skip
_EXECUTION: Final = {
    "category": "linear", "symbol": "BTCUSDT", "execId": "e-1", "orderId": "o-1", "orderLinkId": "mine-1", "side": "Sell",
    "execQty": "0.5", "execPrice": "100.5", "execFee": "0.02", "feeRate": "0.00055", "feeCurrency": "", "execType": "Trade",
    "execTime": str(NOW), "isMaker": False,
}  # fmt: skip
_POSITION: Final = {
    "category": "linear", "symbol": "BTCUSDT", "side": "Buy", "size": "0.5", "entryPrice": "100", "avgPrice": "100", "positionIdx": 0
}  # fmt: skip
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

# -- REST --------------------------------------------------------------------------------------------------------------


class _Heard(BybitPort):
    """The port with one answer to every question, and no need to wait before it asks."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(TestnetConfig(), "linear", Credentials(Secret("key"), Secret("secret")), _Still())
        self._payload = payload

    async def request(
        self, url: str, method: str, headers: Mapping[str, str], body: str | None
    ) -> dict[str, Any]:
        return self._read("/v5/any", 200, {}, self._payload)

    def _budget(self, path: str) -> Budget:
        return Budget(1_000_000, 0.0)


@cache
def _port() -> _Heard:
    return _Heard(b"")  # ccxt's part of it takes long to make


def ask_port(payload: bytes) -> None:
    """Every question that the gateway asks the testnet, with this answer."""
    port = _port()
    port._payload = payload
    order = Order("mine-1", "BTCUSDT", NOW, Side.BUY, OrderType.MARKET, qty=TestnetConfig().wallet_drift)
    ref = OrderRef("BTCUSDT", "mine-1")

    async def rules() -> None:
        for rule in (await port.rules(["BTCUSDT"])).values():
            assert all(number.is_finite() and number >= 0 for number in rule), (
                rule
            )  # what is compared with them would fail far from here
            assert min(rule.tick_size, rule.qty_step) > 0, rule

    async def ask() -> None:
        questions: tuple[Callable[[], Any], ...] = (
            port.server_time, rules, lambda: port.create(order), lambda: port.cancel(ref),
            lambda: port.amend(ref, qty=order.qty), lambda: port.find(ref), port.open_orders, lambda: port.executions(NOW - MINUTE),
            port.positions, port.wallet, lambda: port.position_mode("BTCUSDT"), lambda: port.use_one_way("BTCUSDT"),
        )  # fmt: skip
        for question in questions:
            try:
                await question()
            except PortError as error:
                _show(error)

    _await(ask())


def _answer(result: object, code: int = 0) -> dict[str, object]:
    return {"retCode": code, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOW}


_INSTRUMENT: Final = {
    "symbol": "BTCUSDT", "priceFilter": {"tickSize": "0.1"},
    "lotSizeFilter": {"qtyStep": "0.001", "minOrderQty": "0.001", "minNotionalValue": "5"},
}  # fmt: skip
_ANSWERS: Final = _json(
    *(
        _answer(
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
    _answer({}, 110001),
    _answer({}, 10006),
)


def ask_history(payload: bytes) -> None:
    """The REST history, with this answer to its first page, as ccxt would read it."""

    history, asked = _history(), 0
    exchange = history._exchange

    async def fetch(url: str, method: str = "GET", headers: object = None, body: object = None) -> Any:
        nonlocal asked
        asked += 1
        assert asked < 10, "page after page"
        text = payload.decode(errors="replace")
        answer = exchange.parse_json(text)
        exchange.handle_errors(200, "OK", url, method, {}, text, answer, {}, None)
        return text if answer is None else answer

    exchange.fetch = fetch
    _await(history.bars("BTCUSDT", MINUTE, NOW - NOW % MINUTE - 3 * MINUTE))


_PAGE: Final = _json(
    _answer({
        "symbol": "BTCUSDT", "category": "linear",
        "list": [[str(NOW - NOW % MINUTE - ago * MINUTE), "100", "102", "99", "101", "3", "300"] for ago in (1, 2, 3)],
    }),
    _answer({}, 10001),
)  # fmt: skip

# -- documents ---------------------------------------------------------------------------------------------------------


def read_feed(document: bytes) -> None:
    """RSS or Atom."""
    parse(document, url="https://feed.example/rss")


_FEEDS: Final = (
    b"""<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:media="http://search.yahoo.com/mrss/"><channel><title>Harbour Wire</title>
<link>https://feed.example/</link><ttl>5</ttl>
<item><title>Bitcoin climbs &amp; ether rests</title><link>https://feed.example/1</link><guid isPermaLink="false">a-1</guid>
<pubDate>Mon, 03 Mar 2025 00:04:37 GMT</pubDate><description><![CDATA[<p>Buyers &lt;return&gt; after a <b>slow</b> weekend.</p>]]></description>
<media:thumbnail url="https://feed.example/1.png" width="10"/><source url="https://other.example/">Other Desk</source></item>
<item><title>Miners sell</title><link>https://feed.example/2</link><dc:date>2025-03-03T01:00:00+01:00</dc:date></item></channel></rss>""",
    b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Desk</title><id>urn:desk</id><updated>2025-03-03T00:00:00Z</updated>
<entry><title type="html">Rates &lt;i&gt;hold&lt;/i&gt;</title><id>urn:1</id><link href="https://feed.example/3" rel="alternate"/>
<published>2025-03-03T00:04:37Z</published><updated>2025-03-03T00:05:00Z</updated>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>No change.</p></div></content></entry></feed>""",
    b"""<!DOCTYPE rss [<!ENTITY a "word word"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<rss version="2.0"><channel><title>&b;</title><item><title>One &b; day</title><link>https://feed.example/4</link></item></channel></rss>""",
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
    config.recorded(), config.deterministic_subset(), config.token_file()


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
_SCORES: Final = tuple(
    line | {"bearish": 0.1, "neutral": 0.2, "bullish": 0.7, "symbols": ["BTCUSDT"]} for line in _HEADLINES
)
_FUNDING: Final = tuple({"ts": NOW + i * 28_800_000, "symbol": "BTCUSDT", "rate": "0.0001"} for i in range(4))

# -- commands ----------------------------------------------------------------------------------------------------------


def ask_agent(line: bytes) -> None:
    """A line on the real control socket; every answer must be one. Answered or not, the server must be there for the next."""

    async def handle(request: Request, who: str) -> Any:
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
                        pass  # a line beyond the limit: the agent hangs up on what it has not read
                    finally:
                        writer.close()
                    decoded = [msgspec.json.decode(reply, type=Reply) for reply in replies.splitlines()]
                assert decoded == [Reply(True, {})]
        for context in failures:
            raise context.get("exception") or AssertionError(context["message"])

    _await(ask())


_SECRET: Final = Secret("a shared secret of some length")


def _sealed(text: str) -> bytes:
    return msgspec.json.encode({"body": text, "mac": _mac(_SECRET, "command", text)})


def hear_command(payload: bytes) -> None:
    """From the broker: as a sealed message, and as the body of one that somebody with the secret sealed."""
    guard = ReplayGuard(_SECRET, "tapewire", 30_000, NOW - MINUTE)
    for message in (payload, _sealed(payload.decode(errors="replace"))):
        try:
            guard.admit(message, NOW)
        except ForgedError as error:
            _show(error)


_COMMAND: Final = CommandBody("tapewire", "pause", NOW, "n-1", {"reason": "lunch"}, "anna")


class _OwnModel:
    """What a pool asks of the agent's own model."""

    health = SentimentHealth("sentiment", model="m" * 64)


def hear_worker(payload: bytes) -> None:
    """From the broker: a worker's presence and scores."""

    async def hear() -> None:
        config, topics, clock = MqttConfig(broker="mqtt://127.0.0.1:1"), Topics("tapewire"), _Still()
        link = MqttLink(config, clock, "fuzz", lambda: RetainedPresence("tapewire/agent", None, None))  # type: ignore[arg-type]
        pool = WorkerPool(WorkersConfig(), link, topics, _OwnModel(), clock, capacity=10)  # type: ignore[arg-type]
        pool._hear_presence(payload, False)
        pool._hear_scores(payload, False)
        for scores in pool._answers:
            await pool._take(scores, _nothing)  # type: ignore[arg-type]

    _await(hear())


_WORKERS: Final = _json(
    {"worker": "w-1", "state": "online", "model": "m" * 64, "version": 1},
    {
        "worker": "w-1",
        "model": "m" * 64,
        "scores": [{"id": "n", "bearish": 0.1, "neutral": 0.2, "bullish": 0.7, "abstained": False}],
    },
)


def hear_browser(message: bytes) -> None:
    """A message from a page of the dashboard, which aiohttp has decoded."""
    decode_selection(message.decode(errors="replace"))


def _show(error: TapewireError) -> None:
    """What refuses must be able to say why."""
    str(error).encode(errors="replace")


_AS_JSON: Final = (in_json, in_json, in_json, in_bytes)
_AS_TEXT: Final = (in_words, in_words, in_bytes)
_AS_LINES: Final = (in_lines, in_lines, in_words, in_bytes)

TARGETS: Final[Mapping[str, Target]] = {
    "public-frame": Target(read_public_frame, (), _PUBLIC, _AS_JSON),
    "private-frame": Target(read_private_frame, (), _PRIVATE, _AS_JSON),
    "port-answer": Target(ask_port, (), _ANSWERS, _AS_JSON),
    "history-answer": Target(ask_history, (VenueError,), _PAGE, _AS_JSON),
    "feed": Target(read_feed, (DataError,), _FEEDS, _AS_TEXT),
    "config": Target(
        _in_file(_read_config, "config.toml"), (ConfigError,), [(ROOT / "config.toml").read_bytes()], _AS_TEXT
    ),
    "klines-csv": Target(
        _in_file(_read_klines, "BTCUSDT-1m.csv"), (DataError,), [_KLINES, _BINANCE], _AS_TEXT
    ),
    "klines-parquet": Target(
        _in_file(_read_klines, "BTCUSDT-1m.parquet"),
        (DataError,),
        [_parquet(pyarrow.csv.read_csv(io.BytesIO(_KLINES)))],
        (in_columns, in_columns, in_bytes),
    ),
    "news-csv": Target(
        _in_file(lambda path: list(NewsFile(path)), "news.csv"), (DataError,), [_NEWS], _AS_TEXT
    ),
    "news-jsonl": Target(
        _in_file(lambda path: list(NewsFile(path)), "news.jsonl"),
        (DataError,),
        [b"\n".join(_json(*_HEADLINES))],
        _AS_LINES,
    ),
    "sentiment-jsonl": Target(
        _in_file(lambda path: list(SentimentFile(path)), "scores.jsonl"),
        (DataError,),
        [b"\n".join(_json(*_SCORES))],
        _AS_LINES,
    ),
    "sentiment-parquet": Target(
        _in_file(lambda path: list(SentimentFile(path)), "scores.parquet"),
        (DataError,),
        [_parquet(pa.Table.from_pylist(list(_SCORES)))],
        (in_columns, in_columns, in_bytes),
    ),
    "funding-jsonl": Target(
        _in_file(lambda path: list(FundingFile(path)), "funding.jsonl"),
        (DataError,),
        [b"\n".join(_json(*_FUNDING))],
        _AS_LINES,
    ),
    "control": Target(
        ask_agent,
        (),
        _json({"do": "status"}, {"do": "pause", "args": {"reason": "x"}, "token": "t"}),
        _AS_JSON,
    ),
    "command": Target(
        hear_command,
        (),
        [msgspec.json.encode(_COMMAND), _sealed(msgspec.json.encode(_COMMAND).decode())],
        _AS_JSON,
    ),
    "worker": Target(hear_worker, (), _WORKERS, _AS_JSON),
    "browser": Target(hear_browser, (), _json({"symbol": "BTCUSDT"}), _AS_JSON),
}
