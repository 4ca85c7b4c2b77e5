"""Secrets: from the environment or from a file that only this user can read, and masked wherever they might be printed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agent.errors import ConfigError, SafetyError

MASK: Final = "***"


class Secret:
    """A text that shows itself to `reveal` alone: its repr, its str and its format are a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the library that needs it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


def read_secret(variable: str, file: Path | None) -> Secret | None:
    """The environment variable's value, else what the file holds; None where there is neither.

    Raises SafetyError for a file that others can read, ConfigError for one that can't be read or is empty.
    """
    if text := os.environ.get(variable, "").strip():
        return Secret(text)
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o077:
                raise SafetyError(f"{file} holds a secret and has mode {mode:04o}", hint=f"chmod 600 {file}")
            text = stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}", hint=f"or set {variable} in the environment") from None
    if not text:
        raise ConfigError(f"{file} is empty", hint=f"write the secret into it, or set {variable} in the environment")
    return Secret(text)
