"""A connection to the broker: it reconnects, renews subscriptions, and sends the outbox at least once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import aiomqtt
import msgspec
import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.config.services import MqttConfig
from agent.core.errors import VenueError
from agent.live.interfaces.producer import Emit, Health
from agent.live.services.mqtt.broker import broker_of
from agent.live.services.mqtt.mqtt_messages import encode
from agent.live.services.mqtt.outbox import Outbox
from agent.system.backoff import Reconnection
from agent.system.clock import Clock

QOS: Final = 1
"""Quality of service of all messages: delivered at least once."""

_AT_ONCE: Final = 20  # messages sent concurrently
_CLOSE_TIMEOUT: Final = 2.0  # seconds to send the outbox at the end
_LONGEST: Final = 1 << 18  # bytes of an accepted message
_REFUSED: Final = 128  # reason codes from here on are failures
_log: Final = structlog.get_logger(__name__)

Handler = Callable[[bytes, bool], None]
"""Receives a payload, and whether it was retained. It must be quick, and ignore what it can't decode."""


class LinkHealth(Health):
    """`Health` of the connection; messages are those received."""

    published: int = 0
    waiting: int = 0
    dropped: int = 0
    oversized: int = 0  # messages received, but too long
    forged: int = 0  # commands with a wrong signature, and replayed commands
    refused: int = 0  # signed commands that were not executed


class RetainedPresence(NamedTuple):
    """Retained messages at `topic`: `online` while connected, `offline` afterwards (the last will)."""

    topic: str
    online: msgspec.Struct
    offline: msgspec.Struct


class MqttLink:
    """A supervised companion of the agent, and the network side of a worker.

    `identifier` must not change during its life.
    """

    name = "mqtt"

    def __init__(
        self,
        config: MqttConfig,
        clock: Clock,
        identifier: str,
        presence: Callable[[], RetainedPresence],
        *,
        rng: random.Random | None = None,
    ) -> None:
        self.outbox = Outbox(config.outbox)
        self.connected_since: float | None = None
        """Time of the event loop's clock; None while disconnected."""
        self._config = config
        self._broker = broker_of(config)
        self._clock = clock
        self._identifier = identifier
        self._presence = presence
        self._rng = rng or random.Random()
        self._handlers: dict[str, Handler] = {}
        self._client: aiomqtt.Client | None = None
        self._health = LinkHealth(self.name)

    @property
    def health(self) -> LinkHealth:
        self._health.waiting, self._health.dropped = len(self.outbox), self.outbox.dropped
        return self._health

    def subscribe(self, pattern: str, handler: Handler) -> None:
        """Subscribe from the next connection on; `pattern` may have wildcards and be a shared
        subscription.
        """
        self._handlers[pattern] = handler

    async def replace(self, old: str, new: str, handler: Handler) -> None:
        """Move a subscription from `old` to `new` now."""
        self._handlers.pop(old, None)
        self._handlers[new] = handler
        if self._client is not None:
            with suppress(aiomqtt.MqttError):
                await self._client.unsubscribe(old)
                await self._client.subscribe(new, options=SubscribeOptions(qos=QOS))

    async def run(self, emit: Emit) -> None:
        """Stay connected until cancelled, then send the outbox and go offline."""
        loop = asyncio.get_running_loop()
        restart = Reconnection(self._config.reconnect, self._rng)
        while True:
            self._health.state = "connecting"
            connected, presence = 0.0, self._presence()
            will = aiomqtt.Will(presence.topic, encode(presence.offline), QOS, retain=True)
            try:
                async with self._broker.client(self._identifier, will) as client:
                    connected = loop.time()
                    await self._on_connect(client, presence)
                    try:
                        await self._exchange(client)
                    except asyncio.CancelledError:
                        await self._publish_offline(client, presence)
                        raise
            except (aiomqtt.MqttError, VenueError) as error:
                self._health.failed(error, self._clock.now())
                _log.warning("broker unavailable", broker=self._config.broker, reason=str(error))
            finally:
                self.connected_since, self._client, self._health.state = None, None, "waiting"
            await asyncio.sleep(restart.after(loop.time() - connected if connected else 0.0))

    async def _on_connect(self, client: aiomqtt.Client, presence: RetainedPresence) -> None:
        for pattern in self._handlers:
            codes = await client.subscribe([(pattern, SubscribeOptions(qos=QOS))])
            if any(not isinstance(code, int) and code.value >= _REFUSED for code in codes):
                raise VenueError(
                    f"the broker rejects a subscription to {pattern}", hint="check its access list"
                )
        await client.publish(presence.topic, encode(presence.online), QOS, retain=True)
        self._health.reconnects += self._health.connects > 0
        self._health.connects += 1
        self._health.state = "live"
        self.connected_since, self._client = asyncio.get_running_loop().time(), client
        _log.info("broker connected", broker=self._config.broker)

    async def _exchange(self, client: aiomqtt.Client) -> None:
        """Receive and send until either fails."""
        tasks = [asyncio.create_task(self._read(client)), asyncio.create_task(self._send(client))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._health.messages += 1
            self._health.last_message_at = self._clock.now()
            if not isinstance(message.payload, bytes) or len(message.payload) > _LONGEST:
                self._health.oversized += 1
                continue
            self._health.bytes += len(message.payload)
            for pattern, handler in list(self._handlers.items()):
                if message.topic.matches(pattern):
                    handler(message.payload, message.retain)

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            await self._send_batch(client)

    async def _send_batch(self, client: aiomqtt.Client) -> None:
        messages = await self.outbox.take(_AT_ONCE)
        # concurrently, since each waits for a round trip
        await asyncio.gather(*(client.publish(m.topic, encode(m.message), QOS, m.retain) for m in messages))
        self.outbox.remove(messages)
        self._health.published += len(messages)

    async def _publish_offline(self, client: aiomqtt.Client, presence: RetainedPresence) -> None:
        with suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                while self.outbox:
                    await self._send_batch(client)
                await client.publish(presence.topic, encode(presence.offline), QOS, retain=True)
