"""Connection parameters of the broker: address, TLS and password, validated before connecting."""

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
"""Environment variable of the password."""

SECRET: Final = "TAPEWIRE_MQTT_SECRET"
"""Environment variable of the shared secret that signs commands."""

_SHORTEST: Final = 16  # characters of a shared secret
_PENDING: Final = 1_000  # aiomqtt warns from 10 concurrent calls on


class Broker(NamedTuple):
    """Address and credentials of the broker."""

    host: str
    port: int
    username: str | None
    password: Secret | None
    tls: ssl.SSLContext | None
    keepalive: int
    timeout: float

    def client(self, identifier: str, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
        """Make a client that isn't connected yet."""
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
    """Read the broker's parameters from the configuration.

    Raises ConfigError for files that can't be used, SafetyError for a password that would be sent
    unencrypted.
    """
    url = urlsplit(config.broker)
    if not url.hostname:
        raise ConfigError(
            "no broker is configured", hint='set mqtt.broker, e.g. "mqtts://broker.example:8883"'
        )
    password = read_secret(PASSWORD, config.password_file) if config.username else None
    encrypted = url.scheme == "mqtts"
    if password and not (encrypted or config.allow_plain_password or is_loopback(config.broker)):
        raise SafetyError(
            f"the password would be sent to {config.broker} unencrypted",
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
    """Read the shared secret that signs commands.

    Raises ConfigError if it is missing or too short, SafetyError if other users can read its file.
    """
    secret = read_secret(SECRET, config.secret_file)
    if secret is None:
        raise ConfigError(
            "commands over MQTT need a shared secret", hint=f"set {SECRET}, or mqtt.secret_file of mode 0600"
        )
    if len(secret.reveal()) < _SHORTEST:
        raise ConfigError(
            f"the shared secret has fewer than {_SHORTEST} characters",
            hint="create one: openssl rand -hex 32",
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
