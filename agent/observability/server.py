"""The small HTTP server behind `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from agent.config_outside import MetricsConfig
from agent.errors import ConfigError
from agent.feeds.producer import Emit, Health
from agent.observability.health import why_dead, why_not_ready
from agent.observability.metrics import AgentMetrics

if TYPE_CHECKING:
    from agent.live.daemon import Daemon

_log: Final = structlog.get_logger(__name__)


class MetricsServer:
    """A supervised companion of the agent; a message is a request. `port` is the one it listens at, once it does."""

    name = "metrics"

    def __init__(self, config: MetricsConfig, agent: Daemon) -> None:
        self.metrics = AgentMetrics(agent)
        self.port = config.port
        self._config = config
        self._agent = agent
        self._registry = self.metrics.registry()
        self._health = Health(self.name)

    @property
    def health(self) -> Health:
        """A snapshot."""
        return self._health

    async def run(self, emit: Emit) -> None:
        """Answer until cancelled. Raises ConfigError where the port can't be had; the supervisor tries again."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._config.host, self._config.port)
            try:
                await site.start()
            except OSError as error:
                raise ConfigError(
                    f"metrics can't be served at {self._config.host}:{self._config.port}: {error.strerror}",
                    hint="choose another metrics.port; 0 takes any free one",
                ) from None
            self.port = runner.addresses[0][1]
            self._health.state = "live"
            _log.info("metrics", url=f"http://{self._config.host}:{self.port}/metrics")
            await asyncio.Event().wait()
        finally:
            self._health.state = "stopped"
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        self._health.messages += 1
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})

    async def _alive(self, _: web.Request) -> web.Response:
        return _verdict(why_dead(self._agent, self._config.stuck_after))

    async def _ready(self, _: web.Request) -> web.Response:
        return _verdict(why_dead(self._agent, self._config.stuck_after) + why_not_ready(self._agent))


def _verdict(reasons: list[str]) -> web.Response:
    """200 `ok`, or 503 with a reason a line."""
    return web.Response(text="\n".join(reasons or ["ok"]) + "\n", status=503 if reasons else 200)
