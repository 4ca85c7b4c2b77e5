"""The sandbox: one port for REST, WebSockets and feeds, and the task that plays the market."""

from __future__ import annotations

import asyncio
import ipaddress
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from agent.core.errors import SafetyError, TapewireError, UsageError, VenueError
from agent.sandbox.bybit_errors import BybitError
from agent.sandbox.channel import ClientChannel
from agent.sandbox.faults import damage_payload, fault_from
from agent.sandbox.feed_server import NewsFeedServer, read_headlines
from agent.sandbox.listed_instruments import CATEGORIES
from agent.sandbox.public_ws import PublicStreams
from agent.sandbox.replay_market import ReplayMarket
from agent.sandbox.rest import RestApi, apply_transport_faults
from agent.sandbox.sandbox_options import SandboxOptions
from agent.sandbox.sandbox_venue import SandboxVenue
from agent.sandbox.trade_ws import TradeSocket
from agent.system.clock import Clock
from agent.system.untrusted import JSON_DECODE_ERRORS

_FEED_FAULTS: Final = ("delay", "timeout", "close", "status")


class Sandbox:
    """A running exchange: `async with Sandbox(SandboxOptions(klines=…)) as sandbox`.

    Raises UsageError or DataError for options and files that cannot be played, SafetyError if the host isn't
    loopback and `allow_remote` is False, and VenueError if the port cannot be used.
    """

    def __init__(self, options: SandboxOptions, *, allow_remote: bool = False) -> None:
        if not allow_remote and not _is_loopback(options.host):
            raise SafetyError(
                f"the sandbox does not listen on {options.host}",
                hint="use a loopback address such as 127.0.0.1",
            )
        if not 0 < options.speed <= 100_000:
            raise UsageError(
                f"--speed {options.speed:g} is out of range",
                hint="more than 0, at most 100000: 1 is real time, 60 plays a minute per second",
            )
        self.options = options
        self.port = options.port
        self._runner: web.AppRunner | None = None
        self._player: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        options = self.options
        self.venue = venue = SandboxVenue(options)
        headlines = read_headlines(options.news, venue.market.shift) if options.news else []
        self.feeds = NewsFeedServer(headlines, venue.now, lambda: self.rest_url, items=options.feed_items)
        self._public = PublicStreams(
            venue.market,
            venue.instruments,
            venue.faults,
            venue.now,
            funding_rate=options.funding_rate,
            ack_delay=options.ack_delay_s,
        )
        self.channels: set[ClientChannel] = set()
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, options.host, options.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise VenueError(
                f"port {options.port} of {options.host} can't be used: {error.strerror}",
                hint="choose another --port",
            ) from None
        self.port = self._runner.addresses[0][1]
        self._player = asyncio.create_task(venue.market.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])
        for channel in list(self.channels):
            channel.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- URLs and clock -------------------------------------------------------------------------------------

    @property
    def rest_url(self) -> str:
        """Base URL of REST and feeds, e.g. http://127.0.0.1:8600."""
        return f"http://{self.options.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Base URL of the WebSockets: append /v5/public/linear, /v5/public/spot, /v5/private or /v5/trade."""
        return f"ws://{self.options.host}:{self.port}"

    def urls(self) -> dict[str, str]:
        sockets = {"public": "public/linear", "spot": "public/spot", "private": "private", "trade": "trade"}
        urls = {"rest": self.rest_url, **{name: f"{self.ws_url}/v5/{path}" for name, path in sockets.items()}}
        return urls | (
            {"rss": self.feed_url(), "atom": self.feed_url(kind="atom")} if self.options.news else {}
        )

    @property
    def market(self) -> ReplayMarket:
        return self.venue.market

    @property
    def clock(self) -> Clock:
        """The market's clock. Use it for everything that must share the sandbox's time."""
        return self.venue.market.clock

    def feed_url(self, name: str = "all", kind: str = "rss") -> str:
        """Return the URL of a feed: `all` or a publisher's slug, of kind rss or atom."""
        return f"{self.rest_url}/feeds/{name}.{kind}"

    async def ended(self) -> None:
        """Wait until the files have been played. Re-raises an exception that stopped the market's task."""
        if self._player is not None:
            await asyncio.shield(self._player)

    # -- routes ---------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 20)
        for category in (*CATEGORIES, "inverse", "option"):
            app.router.add_get(f"/v5/public/{category}", self._public_socket)
        app.router.add_get("/v5/private", self._private_socket)
        app.router.add_get("/v5/trade", self._trade_socket)
        app.router.add_route("*", "/v5/{path:.*}", RestApi(self.venue).handle)
        app.router.add_get(r"/feeds/{name}.{kind:rss|atom}", self._feed)
        app.router.add_get("/articles/{id}", self._article)
        app.router.add_get("/_sandbox/state", self._state)
        app.router.add_post("/_sandbox/faults", self._add_faults)
        app.router.add_delete("/_sandbox/faults", self._clear_faults)
        return app

    async def _public_socket(self, request: web.Request) -> web.StreamResponse:
        category = request.path.rpartition("/")[2]
        channel = ClientChannel("ws/public", self.venue.faults)
        streams = self._public
        served = await self._serve(
            request, channel, lambda c, message: streams.handle_message(category, c, message)
        )
        streams.disconnect(category, channel)
        return served

    async def _private_socket(self, request: web.Request) -> web.StreamResponse:
        channel = ClientChannel("ws/private", self.venue.faults)
        served = await self._serve(request, channel, self.venue.private.handle_message)
        self.venue.private.disconnect(channel)
        return served

    async def _trade_socket(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(
            request, ClientChannel("ws/trade", self.venue.faults), TradeSocket(self.venue).handle_message
        )

    async def _serve(
        self, request: web.Request, channel: ClientChannel, handle_message: Any
    ) -> web.StreamResponse:
        try:
            self.venue.limits.check_connection(request.remote or "")
        except BybitError as error:
            return web.Response(status=error.status, text=error.message)
        broken = await apply_transport_faults(
            request, self.venue.faults.draw(f"{channel.scope}/connect", *_FEED_FAULTS)
        )
        if broken is not None:
            return broken
        self.channels.add(channel)
        try:
            return await channel.serve(request, handle_message)
        finally:
            self.channels.discard(channel)

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        target = request.path.lstrip("/")
        broken = await apply_transport_faults(request, self.venue.faults.draw(target, *_FEED_FAULTS))
        if broken is not None:
            return broken
        response = self.feeds.respond(request)
        if isinstance(response.body, bytes) and response.status == 200:
            response.body = damage_payload(
                response.body, self.venue.faults.draw(target, "corrupt", "truncate")
            )
        return response

    async def _article(self, request: web.Request) -> web.Response:
        return self.feeds.article(request)

    # -- administration -------------------------------------------------------------------------------------

    async def _state(self, request: web.Request) -> web.Response:
        venue, market = self.venue, self.venue.market
        symbols = {
            symbol: {
                "bars": len(q.series),
                "index": q.index,
                "start": int(q.series.start[q.index]),
                "done": q.done,
                "last": q.last,
            }
            for symbol, q in market.quotes.items()
        }
        state = {
            "now": venue.now(),
            "speed": self.options.speed,
            "shift": market.shift,
            "played_until": market.time,
            "ended": market.ended.is_set(),
            "symbols": symbols,
            "faults": venue.faults.state(),
            "feeds": self.feeds.names,
            "orders": len(venue.account.orders),
            "open_orders": len(venue.account.open),
            "executions": len(venue.account.executions),
            "connections": len(self.channels),
        }
        return _json(state)

    async def _add_faults(self, request: web.Request) -> web.Response:
        try:
            raw = msgspec.json.decode(await request.read(), type=dict[str, Any] | list[dict[str, Any]])
            self.venue.faults.add([fault_from(item) for item in (raw if isinstance(raw, list) else [raw])])
        except (*JSON_DECODE_ERRORS, TapewireError) as error:
            return _json({"error": str(error)}, status=400)
        return _json({"faults": self.venue.faults.state()})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self.venue.faults.clear()
        return _json({"faults": []})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
