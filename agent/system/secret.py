"""Secrets: from the environment or from a file that nobody else can read, in a type that can't be printed by mistake."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Never

from agent.core.errors import ConfigError, SafetyError
from agent.core.masking import MASK as MASK

_MOST: Final = 65_536  # bytes of a file


class Secret:
    """A text that shows itself only on request: masked in every repr, log, format and traceback, and never pickled."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The text itself; keep it out of variables that live on."""
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a secret is not to be stored")


def read_private(file: Path, what: str) -> str:
    """The text of a file that is called `what` in errors.

    What counts is the file that was opened, also behind a link, as orchestrators mount secrets. Raises SafetyError where others can read
    it or it is no plain file, ConfigError where it can't be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"the {what} {file} can't be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SafetyError(f"the {what} {file} is no plain file")
        if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise SafetyError(
                f"the {what} {file} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {file}, and make new ones if others may have seen them",
            )
        return os.read(descriptor, _MOST).decode("utf-8", errors="replace")
    finally:
        os.close(descriptor)


def read_secret(variable: str, file: Path | None) -> Secret | None:
    """The environment variable's value, else what the file holds; None where there is neither.

    Raises like `read_private`, and ConfigError for an empty file.
    """
    if text := os.environ.get(variable, "").strip():
        return Secret(text)
    if file is None:
        return None
    text = read_private(file, "secret's file").strip()
    if not text:
        raise ConfigError(
            f"{file} is empty", hint=f"write the secret into it, or set {variable} in the environment"
        )
    return Secret(text)
