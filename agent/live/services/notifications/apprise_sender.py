"""Sends notifications through apprise, in a thread. Errors name the service only, since an address is a
secret.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from agent.config.services import NotifyConfig
from agent.core.errors import ConfigError
from agent.live.services.notifications.batcher import Notification
from agent.system.secret import Secret, read_secret

URLS: Final = "TAPEWIRE_NOTIFY_URLS"
"""Environment variable of the addresses."""


def notify_urls(config: NotifyConfig) -> list[Secret]:
    """Read the addresses, which are URLs of apprise: one per line or separated by blanks, with # comments.

    They contain tokens, so they come from the environment or a file of mode 0600. Raises like `read_secret`.
    """
    secret = read_secret(URLS, config.urls_file)
    if secret is None:
        return []
    lines = [line for line in secret.reveal().splitlines() if not line.lstrip().startswith("#")]
    return [Secret(url) for line in lines for url in line.split()]


class SendResult(NamedTuple):
    """Result of sending to one address."""

    service: str  # e.g. `Telegram (address 1)`
    delivered: bool


class AppriseSender:
    """Sender to all addresses. Raises ConfigError if apprise isn't installed or doesn't know an address."""

    def __init__(self, urls: Sequence[Secret], timeout: float) -> None:
        try:
            import apprise
        except ImportError:
            raise ConfigError(
                "notifications need apprise, which isn't installed", hint='pip install "tapewire[notify]"'
            ) from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages contain addresses
        self._types: Final = apprise.NotifyType
        self._plugins: list[tuple[str, Any]] = []
        for number, url in enumerate(urls, 1):
            plugin = apprise.Apprise.instantiate(url.reveal(), suppress_exceptions=True)
            if plugin is None:
                scheme = url.reveal().partition(":")[0][:20]
                raise ConfigError(
                    f"address {number} of the notifications ({scheme}:…) is not supported by apprise",
                    hint="see its list of services; write one address per line",
                )
            plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout
            self._plugins.append((f"{plugin.service_name} (address {number})", plugin))
        self._thread = ThreadPoolExecutor(1, "notify")

    @property
    def services(self) -> list[str]:
        """Names of the services."""
        return [name for name, _ in self._plugins]

    @property
    def thread(self) -> ThreadPoolExecutor:
        """The thread in which to call `send`."""
        return self._thread

    def send(self, notification: Notification) -> list[SendResult]:
        """Send to one address after the other; blocking."""
        kind = self._types.WARNING if notification.urgent else self._types.INFO
        return [SendResult(name, self._send_to(plugin, notification, kind)) for name, plugin in self._plugins]

    def _send_to(self, plugin: Any, notification: Notification, kind: Any) -> bool:
        try:
            return bool(plugin.notify(title=notification.title, body=notification.body, notify_type=kind))
        except Exception:  # noqa: BLE001 a plugin may raise anything
            return False

    def close(self) -> None:
        """Shut down without waiting."""
        self._thread.shutdown(wait=False, cancel_futures=True)
