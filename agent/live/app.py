"""What the configuration attaches to an agent: metrics, MQTT, sentiment workers, notifications.

Each is a watcher, a supervised companion, or both. None of them can hold the core up: what they can't keep up with, they drop and count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import Config
from agent.core.errors import ConfigError
from agent.live.observers import Watcher
from agent.live.producer import Producer
from agent.live.services.notifications.notification_urls import notify_urls
from agent.system.clock import Clock

if TYPE_CHECKING:
    from agent.live.daemon import Daemon
    from agent.live.scoring import SentimentConsumer
    from agent.live.services.mqtt.worker_pool import WorkerPool


class Outside:
    """The parts that are configured; a library is imported only where its part is. Raises ConfigError and SafetyError."""

    def __init__(self, config: Config, agent: Daemon, clock: Clock, model: SentimentConsumer | None) -> None:
        self.watchers: list[Watcher] = []
        self.companions: list[Producer] = []
        self.pool: WorkerPool | None = None
        """Scores headlines in the place of `model`, and gives it what nobody answers."""
        if config.metrics.enabled:
            from agent.live.services.metrics.metrics_server import MetricsServer

            server = MetricsServer(config.metrics, agent)
            self.watchers.append(server.metrics)
            self.companions.append(server)
        if config.workers.enabled and not config.mqtt.broker:
            raise ConfigError("workers are reached through a broker, and mqtt.broker names none")
        if config.workers.enabled and model is not None and model.embedded:
            raise ConfigError(
                "the fusion model reads embeddings, and workers send scores alone",
                hint="workers.enabled = false, or a fusion model trained with --ablation probabilities",
            )
        if config.mqtt.broker:
            from agent.live.services.mqtt.commands import CommandDesk
            from agent.live.services.mqtt.publisher import Publisher
            from agent.live.services.mqtt.worker_pool import WorkerPool

            publisher = Publisher(config.mqtt, agent, clock)
            self.watchers.append(publisher)
            self.companions.append(publisher)
            if config.mqtt.commands:
                CommandDesk(config.mqtt, publisher.link, agent)
            if config.workers.enabled and model is not None:
                self.pool = WorkerPool(
                    config.workers,
                    publisher.link,
                    publisher.topics,
                    model,
                    clock,
                    capacity=config.live.queue_news,
                )
        if secret := notify_urls(config.notify):
            from agent.live.services.notifications.notifier import Notifier

            notifier = Notifier(config.notify, secret, agent, clock)
            self.watchers.append(notifier)
            self.companions.append(notifier)
