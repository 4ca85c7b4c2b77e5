"""Where notifications go: URLs of apprise, which hold tokens and so come from the environment or from a file of mode 0600."""

from __future__ import annotations

from typing import Final

from agent.config.services import NotifyConfig
from agent.system.secret import Secret, read_secret

URLS: Final = "TAPEWIRE_NOTIFY_URLS"
"""Environment variable."""


def notify_urls(config: NotifyConfig) -> list[Secret]:
    """One a line or separated by blanks; lines that begin with # are comments. Raises like `read_secret`."""
    secret = read_secret(URLS, config.urls_file)
    if secret is None:
        return []
    lines = [line for line in secret.reveal().splitlines() if not line.lstrip().startswith("#")]
    return [Secret(url) for line in lines for url in line.split()]
