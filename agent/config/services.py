"""Configuration of services beside the agent: dashboard, API, metrics, MQTT, workers, notifications."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.backoff import BackoffConfig
from agent.system.listener_config import ListenerConfig, Networks

MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""Scheme of a broker's URL -> default port."""


def _base_path(value: str) -> str:
    if value and not re.fullmatch(r"(/[\w.~-]+)+", value, re.ASCII):
        raise ValueError(f"{value!r} is not a URL path: write e.g. /tapewire")
    return value


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
        source = "the password comes from TAPEWIRE_MQTT_PASSWORD or mqtt.password_file"
        raise ValueError(f"a broker's user is mqtt.username, and {source}")
    return value


def _prefix(value: str) -> str:
    if not value or set(value) & set("+#\0 ") or value.startswith(("/", "$")) or value.endswith("/"):
        raise ValueError("a topic prefix has no wildcard or space, and doesn't begin or end with a slash")
    return value


class DashboardConfig(ListenerConfig):
    """The web page that shows and controls the agent, and its access control."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(8610, ge=0, le=65_535)  # 0: any free one; if it is in use, one of the next is taken
    login: Literal["always", "never"] = "always"  # never: no login for any client on loopback
    # created at the first start, mode 0600; None: dashboard.token in live.folder
    token_file: Path | None = None
    # host names, beside addresses and localhost, that browsers may request
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: Networks = ()  # whose X-Forwarded-For, -Proto, -Host and -Prefix are used
    # also served below this path, for proxies that don't strip it
    base_path: Annotated[str, AfterValidator(_base_path)] = ""
    session: int = Field(43_200, gt=0)  # seconds after which a browser has to log in again
    attempts: int = Field(10, gt=0)  # wrong tokens per minute and client; the right token is always accepted
    browsers: int = Field(20, gt=0)  # open pages at once
    bars: int = Field(300, gt=0, le=5_000)  # of each symbol
    # limits of the process that folds a recorded run again for a what-if, the twin or the stories
    replay_timeout: Duration = Field(600_000, ge=1_000)
    replay_memory: int = Field(4_096, ge=256)  # MiB


class ApiConfig(Section):
    """The REST API under /api/v1 of the dashboard's server, for programs with a token."""

    enabled: bool = True  # false: no token is accepted, and only the page uses it
    # execute commands of tokens with the scope `command`, and of logged-in browsers
    commands: bool = False
    # hashes of the tokens, mode 0600; None: api-tokens.json beside dashboard.token
    token_file: Path | None = None
    requests_per_minute: int = Field(600, gt=0)  # of each token; beyond it status 429
    streams: int = Field(20, gt=0)  # connections to /api/v1/events at once
    # latest changes in memory: a client that is further behind is disconnected, or has to start anew
    stream_backlog: int = Field(1_000, ge=10, le=100_000)


class MetricsConfig(ListenerConfig):
    """Prometheus metrics over HTTP: /metrics, /healthz, /readyz.

    They show the account's equity without a login.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(9464, ge=0, le=65_535)  # 0: any free one
    # host names, beside addresses and localhost, that Prometheus may request
    allowed_hosts: tuple[str, ...] = ()
    connections: int = Field(16, ge=2)
    connections_per_client: int = Field(8, ge=1)
    # if an event waits this long, the core hangs, and /healthz fails
    stuck_after: Duration = Field(30_000, gt=0)


class MonitoringConfig(Section):
    """Drift of the sentiment model, measured on the headlines that it scores."""

    drift_window: int = Field(500, ge=100, le=100_000)  # last headlines that are compared with the reference
    move_horizon: Duration = Field(3_600_000, gt=0)  # from a score to the price that it is compared with
    # an alarm is raised if the hit rate's 95 % interval lies below it; 0: never
    hit_rate_floor: float = Field(0.0, ge=0, lt=1)


class MqttConfig(Section):
    """MQTT 5 broker. Secrets come from the environment or from files of mode 0600."""

    broker: Annotated[str, AfterValidator(_broker_url)] = ""  # mqtt://HOST or mqtts://HOST; empty: none
    # of all topics; each agent on a broker needs its own
    prefix: Annotated[str, AfterValidator(_prefix)] = "tapewire"
    username: str = ""
    password_file: Path | None = None  # or TAPEWIRE_MQTT_PASSWORD
    # for mqtts, if the broker's certificate is not signed by a public authority
    ca_file: Path | None = None
    cert_file: Path | None = None  # client certificate, if the broker requires one
    key_file: Path | None = None
    # allow a password over mqtt:// to another machine, where the network can read it
    allow_plain_password: bool = False
    # messages that wait for the broker; beyond it the oldest is dropped and counted
    outbox: int = Field(1_000, gt=0)
    state_every: Duration = Field(5_000, gt=0)  # how often equity and health are published
    keepalive: Duration = Field(30_000, ge=1_000)
    timeout: Duration = Field(10_000, gt=0)  # of connecting and of each acknowledgement
    # execute commands that are signed with the secret in TAPEWIRE_MQTT_SECRET or `secret_file`
    commands: bool = False
    secret_file: Path | None = None
    # a command is refused if its time differs by more than this
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
    """Sentiment scoring by `tapewire worker sentiment` on other machines, through the broker of `[mqtt]`."""

    enabled: bool = False
    # a headline that no worker scored within this time goes to the agent's own model
    answer_within: Duration = Field(2_000, gt=0)
    inflight: int = Field(64, gt=0)  # headlines sent to each worker at once


Subject = Literal["fills", "risk", "strategy", "feeds", "storage", "gateway", "summary", "lifecycle"]
"""Subject of a notification."""


class NotifyConfig(Section):
    """Notifications through apprise (Telegram, Discord, e-mail, ntfy, webhooks …).

    Its URLs hold tokens, so they come from a file or the environment.
    """

    urls_file: Path | None = None  # one URL per line, mode 0600; or TAPEWIRE_NOTIFY_URLS, separated by spaces
    events: tuple[Subject, ...] = (
        *("fills", "risk", "strategy", "feeds", "storage", "gateway", "summary", "lifecycle"),
    )
    coalesce: Duration = 5_000  # events within this time become one message
    max_per_hour: int = Field(30, gt=0)  # messages; further events wait for the next one
    max_lines: int = Field(20, gt=0)  # of one message; the rest is counted
    feed_down_after: Duration = 120_000  # a source counts as down after this time without being live
    timeout: Duration = Field(15_000, gt=0)  # of one delivery
