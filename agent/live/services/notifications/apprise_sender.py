"""Delivery through apprise, in a thread of its own. What goes wrong is told by the service's name: an address is a secret."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from agent.core.errors import ConfigError
from agent.live.services.notifications.batcher import Notification
from agent.system.secret import Secret


class SendResult(NamedTuple):
    """What became of a letter at one address."""

    service: str  # e.g. `Telegram`, and which of the addresses
    delivered: bool


class AppriseSender:
    """Raises ConfigError where apprise isn't installed or doesn't know what an address is."""

    def __init__(self, urls: Sequence[Secret], timeout: float) -> None:
        try:
            import apprise
        except ImportError:
            raise ConfigError(
                "notifications need apprise, which isn't installed", hint='pip install "tapewire[notify]"'
            ) from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its words hold addresses
        self._types: Final = apprise.NotifyType
        self._plugins: list[tuple[str, Any]] = []
        for number, url in enumerate(urls, 1):
            plugin = apprise.Apprise.instantiate(url.reveal(), suppress_exceptions=True)
            if plugin is None:
                scheme = url.reveal().partition(":")[0][:20]
                raise ConfigError(
                    f"address {number} of the notifications ({scheme}:…) is none that apprise knows",
                    hint="see its list of services; one address a line",
                )
            plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout
            self._plugins.append((f"{plugin.service_name} (address {number})", plugin))
        self._thread = ThreadPoolExecutor(1, "notify")

    @property
    def services(self) -> list[str]:
        """Who is told."""
        return [name for name, _ in self._plugins]

    @property
    def thread(self) -> ThreadPoolExecutor:
        """Where `deliver` is to be called."""
        return self._thread

    def deliver(self, letter: Notification) -> list[SendResult]:
        """To each address, one after the other; blocking."""
        kind = self._types.WARNING if letter.urgent else self._types.INFO
        return [SendResult(name, self._try(plugin, letter, kind)) for name, plugin in self._plugins]

    def _try(self, plugin: Any, letter: Notification, kind: Any) -> bool:
        try:
            return bool(plugin.notify(title=letter.title, body=letter.body, notify_type=kind))
        except Exception:  # noqa: BLE001 a hundred plugins of others: whatever they raise, it was not delivered
            return False

    def close(self) -> None:
        """Wait for nothing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
