"""HTTP server for `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import choose_encoder

from agent.config.services import MetricsConfig
from agent.core.errors import ConfigError
from agent.live.interfaces.probes import why_dead, why_not_ready
from agent.live.interfaces.producer import Emit, Health
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.services.metrics.prometheus import AgentMetrics
from agent.system.addresses import is_loopback_host, known_host
from agent.system.listening_sockets import Listener

_LONGEST_BODY: Final = 1_000  # bytes; requests need no body
_log: Final = structlog.get_logger(__name__)


class MetricsServer:
    """A supervised companion of the agent; its health counts requests as messages. `port` is the bound
    port.
    """

    name = "metrics"

    def __init__(self, config: MetricsConfig, agent: RunningAgent) -> None:
        self.metrics = AgentMetrics(agent)
        self.port = config.port
        self._config = config
        self._agent = agent
        self._registry = self.metrics.registry()
        self._health = Health(self.name)
        self._listener = Listener(self.name, config)
        agent.listeners.append(self._listener)

    @property
    def health(self) -> Health:
        return self._health

    async def run(self, emit: Emit) -> None:
        """Serve until cancelled. Raises ConfigError if the port can't be bound; the supervisor retries."""
        app = web.Application(
            client_max_size=_LONGEST_BODY, middlewares=[self._listener.middleware(), self._check_host]
        )
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        runner = await self._listener.serve(app)
        try:
            try:
                self.port = await self._listener.listen(self._config.host, self._config.port)
            except OSError as error:
                raise ConfigError(
                    f"metrics can't be served at {self._config.host}:{self._config.port}: {error.strerror}",
                    hint="choose another metrics.port; 0 takes any free one",
                ) from None
            self._health.state = "live"
            _log.info("metrics", url=f"http://{self._config.host}:{self.port}/metrics")
            await asyncio.Event().wait()
        finally:
            self._health.state = "stopped"
            await self._listener.close()
            await runner.cleanup()

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject unknown hosts, so that a web page can't read the account by DNS rebinding."""
        if not known_host(
            request.host, self._config.allowed_hosts, addresses=not is_loopback_host(self._config.host)
        ):
            self._listener.deny(
                f"Host {request.host[:80]!r} is not in metrics.allowed_hosts", request.remote or ""
            )
            return web.Response(status=421, text="unknown host; add it to metrics.allowed_hosts\n")
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        self._health.messages += 1
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})

    async def _alive(self, _: web.Request) -> web.Response:
        return _probe_response(why_dead(self._agent, self._config.stuck_after))

    async def _ready(self, _: web.Request) -> web.Response:
        return _probe_response(why_dead(self._agent, self._config.stuck_after) + why_not_ready(self._agent))


def _probe_response(reasons: list[str]) -> web.Response:
    """Respond 200 `ok`, or 503 with one reason per line."""
    return web.Response(text="\n".join(reasons or ["ok"]) + "\n", status=503 if reasons else 200)
