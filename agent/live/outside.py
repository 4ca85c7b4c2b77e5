"""What the configuration attaches to an agent: metrics, MQTT, sentiment workers, notifications.

Each is a watcher, a supervised companion, or both. None of them can hold the core up: what they can't keep up with, they drop and count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import Config
from agent.feeds.producer import Producer
from agent.live.watchers import Watcher

if TYPE_CHECKING:
    from agent.live.daemon import Daemon


class Outside:
    """The parts that are configured; a library is imported only where its part is. Raises ConfigError and SafetyError."""

    def __init__(self, config: Config, agent: Daemon) -> None:
        self.watchers: list[Watcher] = []
        self.companions: list[Producer] = []
        if config.metrics.enabled:
            from agent.observability.server import MetricsServer

            server = MetricsServer(config.metrics, agent)
            self.watchers.append(server.metrics)
            self.companions.append(server)
