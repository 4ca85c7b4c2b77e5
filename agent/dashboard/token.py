"""The token that browsers log in with where the page is served to other machines."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from agent.config_dashboard import DashboardConfig
from agent.errors import SafetyError, StoreError
from agent.feeds.addresses import is_loopback

SHORTEST: Final = 20
"""Characters of a token that somebody chose."""


def required_token(config: DashboardConfig) -> str | None:
    """None on loopback; else the token in `token_file`, which is made at the first start.

    Raises SafetyError where others may read the file or what it holds is no secret, StoreError where it can't be had.
    """
    host = f"[{config.host}]" if ":" in config.host else config.host
    return None if is_loopback(f"//{host}") else _token(config.token_file)


def _token(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _checked(path)
        with open(handle, "w", encoding="ascii") as file:
            file.write((token := secrets.token_urlsafe(32)) + "\n")
        return token
    except OSError as error:
        raise StoreError(
            f"dashboard.token_file: {path} can't be used: {error.strerror}", hint="give this user the right to write there"
        ) from error


def _checked(path: Path) -> str:
    """The token of a file that is this user's alone."""
    with path.open(encoding="utf-8", errors="replace") as file:
        state = os.fstat(file.fileno())
        token = file.read(1_000).strip()
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise SafetyError(
            f"dashboard.token_file: {path} can be read by others than this user",
            hint=f"chmod 600 {path}, or remove it for a new one",
        )
    if len(token) < SHORTEST:
        raise SafetyError(
            f"dashboard.token_file: {path} holds no token of at least {SHORTEST} characters", hint="remove it for a new one"
        )
    return token
