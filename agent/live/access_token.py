"""A secret that lets somebody in where the Unix socket can't tell who asks: a file that this user alone can read."""

from __future__ import annotations

import os
import secrets
import stat
from hmac import compare_digest
from pathlib import Path
from typing import Final

from agent.core.errors import SafetyError, StoreError
from agent.system.secret import write_private

_SHORTEST: Final = 32  # characters


def make_token(path: Path) -> str:
    """The token in `path`; the file is made, mode 0600, where it isn't there. Raises like `read_token`."""
    if path.exists():
        return read_token(path)
    token = secrets.token_urlsafe(32)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write_private(aside, f"{token}\n")
        try:
            os.link(aside, path)  # whole or not at all, and never over another process's
        except FileExistsError:
            return read_token(path)
        finally:
            aside.unlink()
    except OSError as error:
        raise StoreError(
            f"the token file {path} can't be made: {error.strerror}", hint="check its folder's rights"
        ) from None
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
            f"the token in {path} is shorter than {_SHORTEST} characters",
            hint="remove the file, and a new one is made",
        )
    return token


def same_token(one: str, other: str) -> bool:
    """Compared in a time that says nothing of how much is right."""
    return compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())
