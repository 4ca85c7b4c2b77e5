"""How to reach the broker: its address, TLS and the password, checked before anything is tried."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiomqtt

from agent.config.services import MQTT_PORTS, MqttConfig
from agent.core.errors import ConfigError, SafetyError
from agent.system.addresses import is_loopback
from agent.system.secret import Secret, read_secret

PASSWORD: Final = "TAPEWIRE_MQTT_PASSWORD"
"""Environment variable."""

SECRET: Final = "TAPEWIRE_MQTT_SECRET"
"""Environment variable: what signs commands."""

_SHORTEST: Final = 16  # characters of a shared secret
_PENDING: Final = 1_000  # publishing side by side is meant: aiomqtt warns from 10 on


class Broker(NamedTuple):
    """Where it is, and what it takes to get in."""

    host: str
    port: int
    username: str | None
    password: Secret | None
    tls: ssl.SSLContext | None
    keepalive: int
    timeout: float

    def client(self, identifier: str, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
        """A client that isn't connected yet."""
        client = aiomqtt.Client(
            self.host,
            self.port,
            identifier=identifier,
            username=self.username,
            password=self.password.reveal() if self.password else None,
            tls_context=self.tls,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will,
            keepalive=self.keepalive,
            timeout=self.timeout,
        )
        client.pending_calls_threshold = _PENDING
        return client


def broker_of(config: MqttConfig) -> Broker:
    """Raises ConfigError for files that can't be used, SafetyError for a password that would travel in the clear."""
    url = urlsplit(config.broker)
    if not url.hostname:
        raise ConfigError(
            "no broker is configured", hint='set mqtt.broker, e.g. "mqtts://broker.example:8883"'
        )
    password = read_secret(PASSWORD, config.password_file) if config.username else None
    encrypted = url.scheme == "mqtts"
    if password and not (encrypted or config.allow_plain_password or is_loopback(config.broker)):
        raise SafetyError(
            f"{config.broker} would send the password readable for everybody on the way",
            hint="use mqtts://, or set mqtt.allow_plain_password on a network of your own",
        )
    return Broker(
        url.hostname,
        url.port or MQTT_PORTS[url.scheme],
        config.username or None,
        password,
        _context(config) if encrypted else None,
        max(1, config.keepalive // 1000),
        config.timeout / 1000,
    )


def shared_secret(config: MqttConfig) -> Secret:
    """What signs commands. Raises ConfigError where there is none or it is too short, SafetyError where others can read it."""
    secret = read_secret(SECRET, config.secret_file)
    if secret is None:
        raise ConfigError(
            "commands over MQTT need a shared secret", hint=f"set {SECRET}, or mqtt.secret_file of mode 0600"
        )
    if len(secret.reveal()) < _SHORTEST:
        raise ConfigError(
            f"the shared secret has fewer than {_SHORTEST} characters", hint="openssl rand -hex 32 makes one"
        )
    return secret


def _context(config: MqttConfig) -> ssl.SSLContext:
    file = config.ca_file
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file is not None:
            file = config.cert_file
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{file} can't be used for TLS: {error}", hint="it must be a PEM file that this user can read"
        ) from None
    return context
