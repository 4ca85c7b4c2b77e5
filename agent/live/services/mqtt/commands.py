"""Signed commands through the broker to the agent, and its signed replies. Actions are those of the control
socket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiomqtt
import msgspec
import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.config.services import MqttConfig
from agent.core.errors import SafetyError, TapewireError, VenueError, error_from_exit_code
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.services.mqtt.broker import broker_of, shared_secret
from agent.live.services.mqtt.connection import QOS, MqttLink
from agent.live.services.mqtt.mqtt_messages import AnswerBody, CommandBody, Topics, encode
from agent.live.services.mqtt.signing import ForgedError, ReplayGuard, sign, verify
from agent.system.clock import WallClock
from agent.system.untrusted import JSON_DECODE_ERRORS, Allowance, Throttle

_AT_ONCE: Final = 8  # commands executed concurrently
# refusals answered per minute: any reader of the topic can replay an old command
_REFUSALS: Final = 60
_log: Final = structlog.get_logger(__name__)


class SignedCommandHandler:
    """Handles commands from `link`. Their times are checked by the system clock, even if a sandbox runs
    faster.
    """

    def __init__(self, config: MqttConfig, link: MqttLink, agent: RunningAgent) -> None:
        self._forged = Throttle()
        self._refused = Throttle()
        self._refusals = Allowance(_REFUSALS)
        self._topics = Topics(config.prefix)
        self._secret = shared_secret(config)
        self._wall = WallClock()
        self._guard = ReplayGuard(self._secret, config.prefix, config.command_window, self._wall.now())
        self._link = link
        self._agent = agent
        self._tasks: set[asyncio.Task[None]] = set()
        link.subscribe(self._topics.commands, self._on_message)

    def _on_message(self, payload: bytes, retained: bool) -> None:
        try:
            command, refusal = self._guard.admit(payload, self._wall.now())
        except ForgedError as error:
            self._link.health.forged += 1
            if count := self._forged.due():
                _log.warning("command ignored", reason=error.message, count=count)
            return
        if retained:  # the broker would deliver it again at every connection
            refusal = SafetyError(
                "a retained command is not executed", hint="publish it without the retain flag"
            )
        elif refusal is None and len(self._tasks) >= _AT_ONCE:
            refusal = SafetyError(f"{_AT_ONCE} commands are being executed already")
        if refusal is not None:
            self._link.health.refused += 1
            if count := self._refused.due():
                _log.warning(
                    "command refused",
                    action=command.action[:64],
                    by=command.by[:64],
                    reason=refusal.message,
                    count=count,
                )
            if self._refusals.take():
                self._answer(
                    AnswerBody(command.nonce, False, None, refusal.message, refusal.hint, refusal.exit_code)
                )
            return
        task = asyncio.create_task(self._execute(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, command: CommandBody) -> None:
        try:
            by = f"mqtt {command.by}".rstrip()
            if command.action == "status":
                result: Any = self._agent.status()
            else:
                result = await self._agent.command(command.action, command.args, by)
            answer = AnswerBody(command.nonce, True, result)
        except TapewireError as error:
            answer = AnswerBody(command.nonce, False, None, error.message, error.hint, error.exit_code)
        self._answer(answer)

    def _answer(self, answer: AnswerBody) -> None:
        self._link.outbox.put(self._topics.answers, sign(self._secret, "answer", answer))


async def send_command(
    config: MqttConfig, action: str, args: Mapping[str, str], *, by: str, timeout: float
) -> Any:
    """Send a signed command and return the agent's result.

    Raises the error with which the agent refused, and VenueError if the broker can't be reached or no reply
    comes within `timeout` seconds.
    """
    secret, topics = shared_secret(config), Topics(config.prefix)
    command = CommandBody(config.prefix, action, WallClock().now(), secrets.token_hex(16), dict(args), by)
    broker = broker_of(config)
    try:
        async with broker.client(f"{config.prefix}-tell-{command.nonce[:8]}") as client:
            await client.subscribe(topics.answers, options=SubscribeOptions(qos=QOS))
            async with asyncio.timeout(timeout):
                await client.publish(topics.commands, encode(sign(secret, "command", command)), QOS)
                answer = await _wait_for_answer(
                    client, command.nonce, lambda payload: verify(secret, "answer", payload)
                )
    except aiomqtt.MqttError as error:
        raise VenueError(
            f"{config.broker}: {error}", hint="check that the broker is running, and the password"
        ) from None
    except TimeoutError:
        raise VenueError(
            f"no answer on {topics.answers} within {timeout:g} s",
            hint="check that the agent runs with mqtt.commands, this prefix and this secret",
        ) from None
    if answer.ok:
        return answer.result
    raise error_from_exit_code(answer.exit_code, answer.error, answer.hint)


async def _wait_for_answer(
    client: aiomqtt.Client, nonce: str, verify_payload: Callable[[bytes], str]
) -> AnswerBody:
    async for message in client.messages:
        try:
            answer = msgspec.json.decode(verify_payload(bytes(message.payload)), type=AnswerBody)
        except (ForgedError, *JSON_DECODE_ERRORS):
            continue
        if answer.nonce == nonce:
            return answer
    raise VenueError("the broker closed the connection before an answer came")
