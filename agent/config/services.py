"""The configuration of what looks on from outside: metrics, MQTT, sentiment workers, notifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.backoff import BackoffConfig
from agent.system.listener_config import ListenerConfig

MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""Schemes of a broker's URL, and their usual ports."""


def _broker_url(value: str) -> str:
    if not value:
        return value
    url = urlsplit(value)
    try:
        port_is_one = url.port is None or url.port > 0
    except ValueError:
        port_is_one = False
    if url.scheme not in MQTT_PORTS or not url.hostname or url.path not in ("", "/") or not port_is_one:
        raise ValueError("a broker is written mqtt://HOST, mqtts://HOST or either with :PORT")
    if url.username is not None or url.password is not None:
        raise ValueError(
            "a broker's user is mqtt.username, and the password comes from TAPEWIRE_MQTT_PASSWORD or mqtt.password_file"
        )
    return value


def _prefix(value: str) -> str:
    if not value or set(value) & set("+#\0 ") or value.startswith(("/", "$")) or value.endswith("/"):
        raise ValueError("a topic prefix has no wildcard or space, and doesn't begin or end with a slash")
    return value


class MetricsConfig(ListenerConfig):
    """Prometheus metrics over HTTP: /metrics, /healthz, /readyz. They tell the account's equity to whoever can reach them."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(9464, ge=0, le=65_535)  # 0: any free one
    # names, beside addresses and localhost, by which Prometheus may call it
    allowed_hosts: tuple[str, ...] = ()
    connections: int = Field(16, ge=2)
    connections_per_client: int = Field(8, ge=1)
    # an event that waited for so long: the core hangs, and /healthz says so
    stuck_after: Duration = Field(30_000, gt=0)


class MqttConfig(Section):
    """An MQTT 5 broker. Secrets come from the environment, or from files of mode 0600."""

    broker: Annotated[str, AfterValidator(_broker_url)] = ""  # mqtt://HOST or mqtts://HOST; empty: none
    # of all topics; each agent on a broker needs its own
    prefix: Annotated[str, AfterValidator(_prefix)] = "tapewire"
    username: str = ""
    password_file: Path | None = None  # or TAPEWIRE_MQTT_PASSWORD
    # of mqtts, where the broker's certificate is not signed by a public authority
    ca_file: Path | None = None
    cert_file: Path | None = None  # of this client, where the broker asks for one
    key_file: Path | None = None
    # a password over mqtt:// to another machine: whoever listens on the way reads it
    allow_plain_password: bool = False
    # messages that wait for the broker; beyond it the oldest is dropped, and counted
    outbox: int = Field(1_000, gt=0)
    state_every: Duration = Field(5_000, gt=0)  # how often equity and health are published
    keepalive: Duration = Field(30_000, ge=1_000)
    timeout: Duration = Field(10_000, gt=0)  # of connecting and of each acknowledgement
    # obey commands that are signed with TAPEWIRE_MQTT_SECRET, or with the file's secret
    commands: bool = False
    secret_file: Path | None = None
    # a command is refused when its time is further off than this
    command_window: Duration = Field(30_000, gt=0)
    reconnect: BackoffConfig = BackoffConfig()

    @model_validator(mode="after")
    def _complete(self) -> MqttConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if self.commands and not self.broker:
            raise ValueError("commands need a broker")
        return self


class WorkersConfig(Section):
    """Headlines are scored by `tapewire worker sentiment` on any number of machines, through the broker of `[mqtt]`."""

    enabled: bool = False
    # a headline without an answer for so long goes to the agent's own model
    answer_within: Duration = Field(2_000, gt=0)
    inflight: int = Field(64, gt=0)  # headlines that each worker is given at once


Subject = Literal["fills", "risk", "feeds", "storage", "gateway", "summary", "lifecycle"]
"""What a notification may be about."""


class NotifyConfig(Section):
    """Notifications through apprise (Telegram, Discord, e-mail, ntfy, webhooks …). Its URLs hold tokens, hence are not written here."""

    urls_file: Path | None = None  # one URL a line, mode 0600; or TAPEWIRE_NOTIFY_URLS, separated by blanks
    events: tuple[Subject, ...] = ("fills", "risk", "feeds", "storage", "gateway", "summary", "lifecycle")
    coalesce: Duration = 5_000  # what happens within this time is one message
    max_per_hour: int = Field(30, gt=0)  # messages; what comes beyond it waits for the next one
    max_lines: int = Field(20, gt=0)  # of one message; the rest is counted
    feed_down_after: Duration = 120_000  # a source counts as down when it was not live for so long
    timeout: Duration = Field(15_000, gt=0)  # of one delivery
