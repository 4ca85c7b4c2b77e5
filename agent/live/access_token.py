"""Access tokens for servers that can't identify their peer as the Unix socket can: files of mode 0600."""

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
    """Return the token in `path`; create the file with mode 0600 if it doesn't exist. Raises like
    `read_token`.
    """
    if path.exists():
        return read_token(path)
    token = secrets.token_urlsafe(32)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write_private(aside, f"{token}\n")
        try:
            os.link(aside, path)  # atomic, and never overwrites another process's token
        except FileExistsError:
            return read_token(path)
        finally:
            aside.unlink()
    except OSError as error:
        raise StoreError(
            f"the token file {path} can't be created: {error.strerror}", hint="check the folder's permissions"
        ) from None
    return token


def read_token(path: Path) -> str:
    """Return the token in `path`.

    Raises StoreError if the file can't be read, SafetyError if other users may access it or the token is too
    short.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the token file {path} can't be read: {error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SafetyError(f"other users may access the token file {path}", hint=f"chmod 600 {path}")
    if len(token) < _SHORTEST:
        raise SafetyError(
            f"the token in {path} is shorter than {_SHORTEST} characters",
            hint="remove the file; the agent creates a new one",
        )
    return token


def same_token(one: str, other: str) -> bool:
    """Compare two tokens in constant time."""
    return compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())
