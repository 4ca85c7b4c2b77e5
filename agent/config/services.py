"""Configuration of the services beside the agent: dashboard, API, metrics, MQTT, notifications, Telegram …"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.addresses import is_loopback
from agent.system.backoff import BackoffConfig
from agent.system.listener_config import ListenerConfig, Networks

SAMPLE_FOLDER: Final = "sample"
"""Name of the folder of the sample data among those of `jobs.data`."""

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


def _bot_server(value: str) -> str:
    url = urlsplit(value)
    secure = url.scheme == "https" or (url.scheme == "http" and is_loopback(value))
    if not secure or not url.hostname or url.username is not None or url.query or url.fragment:
        raise ValueError("a server of the Bot API is https://HOST, or http://127.0.0.1:PORT on this machine")
    return value.rstrip("/")


def _server_url(value: str) -> str:
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        url = urlsplit("")
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or url.username is not None
        or (url.query or url.fragment)
    ):
        raise ValueError("a server is https://HOST, or http://127.0.0.1:PORT on this machine, with its path")
    return value.rstrip("/")


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
    agents_every: Duration = Field(5_000, ge=100)  # how often the state of the [[agents]] is read
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


class JobsConfig(Section):
    """Jobs that the page, the API and assistants start: backtests, studies, checks, downloads, imports.

    Each is a command of the command line in a process of its own.
    """

    enabled: bool = True
    parallel: int = Field(1, gt=0, le=64)  # jobs that run at once
    waiting: int = Field(20, ge=0, le=1_000)  # jobs that wait for these; further ones are refused
    kept: int = Field(100, ge=1, le=10_000)  # ended jobs in the list; older ones are forgotten
    timeout: Duration = Field(3_600_000, ge=1_000)  # of one job
    cpu: Duration = Field(7_200_000, ge=1_000)  # CPU time of one job, all its threads together
    memory: int = Field(4_096, ge=256)  # MiB of one job
    # folders whose files jobs may read; downloads and imports are written to the first one
    data: tuple[str, ...] = ("var/klines", "data")
    # folder whose strategies jobs may run, and those of the folders directly inside it
    strategies: Path = Path()

    @model_validator(mode="after")
    def _distinct(self) -> JobsConfig:
        names = [Path(folder).name for folder in self.data]
        if not names or not all(names):
            raise ValueError("data has at least one folder, each with a name of its own")
        twice = next((name for name in names if names.count(name) > 1 or name == SAMPLE_FOLDER), None)
        if twice is not None:
            raise ValueError(f"data: two folders are called {twice!r}, and jobs name files FOLDER/FILE")
        return self


class McpConfig(Section):
    """The MCP server, by which an assistant reads runs and does research (`tapewire mcp`)."""

    # offer commands to the running agent; over HTTP of tokens with the scope `command`
    commands: bool = False
    requests_per_minute: int = Field(600, gt=0)  # of each token, over HTTP; beyond it status 429
    # host names, beside localhost and the address, by which the server may be requested over HTTP
    allowed_hosts: tuple[str, ...] = ()


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


class RemoteAgentConfig(Section):
    """Another agent that the page `agents` of the dashboard shows, through its REST API.

    The token comes from TAPEWIRE_AGENT_TOKEN_NAME (the name in capitals, `_` for other characters) or
    `token_file`.
    """

    # unique; letters, digits, blanks, and . _ -
    name: str = Field(min_length=1, max_length=40, pattern=r"^[\w .-]+$")
    url: Annotated[str, AfterValidator(_server_url)]  # of its dashboard's server, such as https://host/path
    token_file: Path | None = None  # mode 0600
    # send the token over http:// to another machine, where the network can read it
    allow_plain: bool = False

    @model_validator(mode="after")
    def _encrypted(self) -> RemoteAgentConfig:
        if self.url.startswith("http:") and not is_loopback(self.url) and not self.allow_plain:
            raise ValueError(
                f"the token would reach {urlsplit(self.url).hostname} without encryption: use https or a "
                "tunnel, or allow_plain = true if you trust the network"
            )
        return self


class TelegramConfig(Section):
    """Commands by chat, through a bot of Telegram.

    The bot's token comes from TAPEWIRE_TELEGRAM_TOKEN or `token_file`.
    """

    token_file: Path | None = None  # mode 0600
    # ids of the chats whose messages are commands; groups have negative ones, and all their members command
    chats: tuple[int, ...] = ()
    max_age: Duration = Field(60_000, ge=1_000)  # an older message is not executed
    confirm_within: Duration = Field(60_000, ge=1_000)  # how long a confirmation is accepted
    commands_per_minute: int = Field(20, gt=0)  # of each chat
    poll: Duration = Field(50_000, ge=1_000, le=300_000)  # how long the server holds a request for messages
    timeout: Duration = Field(15_000, ge=100)  # of each request, beyond the time that it is held
    endpoint: Annotated[str, AfterValidator(_bot_server)] = "https://api.telegram.org"
    reconnect: BackoffConfig = BackoffConfig(first=1_000)
