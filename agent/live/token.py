"""A secret that lets somebody in where the Unix socket can't tell who asks: a file that this user alone can read."""

from __future__ import annotations

import os
import secrets
import stat
from hmac import compare_digest
from pathlib import Path
from typing import Final

from agent.errors import SafetyError, StoreError

_SHORTEST: Final = 32  # characters


def make_token(path: Path) -> str:
    """The token in `path`; the file is made, mode 0600, where it isn't there. Raises like `read_token`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_token(path)
    except OSError as error:
        raise StoreError(f"the token file {path} can't be made: {error.strerror}", hint="check its folder's rights") from None
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{token}\n")
    return token


def read_token(path: Path) -> str:
    """The token in `path`. Raises SafetyError where others could read it too or it is too short to be one, StoreError without it."""
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the token file {path} can't be read: {error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SafetyError(f"others than its owner may use the token file {path}", hint=f"chmod 600 {path}")
    if len(token) < _SHORTEST:
        raise SafetyError(
            f"the token in {path} is shorter than {_SHORTEST} characters", hint="remove the file, and a new one is made"
        )
    return token


def same_token(one: str, other: str) -> bool:
    """Compared in a time that says nothing of how much is right."""
    return compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())
