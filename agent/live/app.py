"""Composition root: makes the agent and attaches the services that the configuration names.

No other module knows both the agent and MQTT, metrics, notifications or Telegram. A service is an observer of
the agent, a producer supervised beside it, or both. None of them can block the core: a service drops and
counts what it can't keep up with.
"""

from __future__ import annotations

import random

from agent.config import Config
from agent.core.errors import ConfigError
from agent.live.daemon import Daemon, LoadModel
from agent.live.gateway.venue_port import VenuePort
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.producer import Producer
from agent.live.interfaces.running_agent import HeadlineScorer, RunningAgent, Services
from agent.live.scoring import SentimentConsumer
from agent.live.services.notifications.apprise_sender import notify_urls
from agent.live.services.telegram.bot_api import TOKEN, bot_token
from agent.store.database import Database
from agent.system.clock import Clock


def make_agent(
    config: Config,
    database: Database,
    *,
    load_model: LoadModel,
    clock: Clock | None = None,
    new: bool = False,
    rng: random.Random | None = None,
    port: VenuePort | None = None,
) -> Daemon:
    """Make an agent with its configured services; the arguments are those of `Daemon`.

    Raises ConfigError and SafetyError.
    """
    agent = Daemon(config, database, load_model=load_model, clock=clock, new=new, rng=rng, port=port)
    agent.attach(configured_services(config, agent, agent.clock, agent.model, database))
    return agent


def configured_services(
    config: Config, agent: RunningAgent, clock: Clock, model: SentimentConsumer | None, database: Database
) -> Services:
    """Make the services that `config` names. A library is imported only if its service is configured."""
    observers: list[Observer] = []
    companions: list[Producer] = []
    scorer: HeadlineScorer | None = None
    if config.metrics.enabled:
        from agent.live.services.metrics.metrics_server import MetricsServer

        server = MetricsServer(config.metrics, agent)
        observers.append(server.metrics)
        companions.append(server)
    if config.workers.enabled and not config.mqtt.broker:
        raise ConfigError("workers need a broker, but mqtt.broker is empty")
    if config.workers.enabled and model is not None and model.embedded:
        raise ConfigError(
            "the fusion model reads embeddings, but workers only send scores",
            hint="workers.enabled = false, or a fusion model trained with --ablation probabilities",
        )
    if config.mqtt.broker:
        from agent.live.services.mqtt.commands import SignedCommandHandler
        from agent.live.services.mqtt.publisher import Publisher
        from agent.live.services.mqtt.worker_pool import WorkerPool

        publisher = Publisher(config.mqtt, agent, clock)
        observers.append(publisher)
        companions.append(publisher)
        if config.mqtt.commands:
            SignedCommandHandler(config.mqtt, publisher.link, agent)
        if config.workers.enabled and model is not None:
            scorer = WorkerPool(
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
        observers.append(notifier)
        companions.append(notifier)
    if token := bot_token(config.telegram):
        from agent.live.services.telegram.telegram_bot import TelegramBot

        companions.append(TelegramBot(config.telegram, token, agent, clock, database))
    elif config.telegram.chats:
        raise ConfigError(
            "telegram.chats lists chats, but there is no token of a bot",
            hint=f"set {TOKEN}, or telegram.token_file of mode 0600",
        )
    return Services(tuple(observers), tuple(companions), scorer)
