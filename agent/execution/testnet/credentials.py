"""API keys: from the environment or a file that nobody else can read, in a type that can't be printed by mistake."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Never

from agent.errors import ConfigError, SafetyError

KEY: Final = "TAPEWIRE_API_KEY"
SECRET: Final = "TAPEWIRE_API_SECRET"
MASK: Final = "***"
"""What is shown instead."""

_MOST: Final = 4_096


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


class Credentials(NamedTuple):
    """An API key and what signs in its name."""

    key: Secret
    secret: Secret


def load_credentials(file: Path | None, environment: Mapping[str, str] = os.environ) -> Credentials:
    """From `file` (key and secret in two lines) if one is named, else from the environment.

    Raises SafetyError for a file that others can read, ConfigError where there are no keys.
    """
    if file is not None:
        lines = _read(file).split()
        if len(lines) != 2:
            raise ConfigError(f"{file} holds no API key and secret", hint="two lines: the key, the secret")
        return Credentials(Secret(lines[0]), Secret(lines[1]))
    key, secret = environment.get(KEY, "").strip(), environment.get(SECRET, "").strip()
    if not key or not secret:
        missing = " and ".join(name for name, value in ((KEY, key), (SECRET, secret)) if not value)
        raise ConfigError(
            f"there are no API keys: {missing} is not set", hint="set both, or name a file in execution.testnet.key_file"
        )
    return Credentials(Secret(key), Secret(secret))


def _read(file: Path) -> str:
    """What counts is the file that was opened, also behind a link, as orchestrators mount secrets."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"the key file {file} can't be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SafetyError(f"the key file {file} is no plain file")
        if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise SafetyError(
                f"the key file {file} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {file}, and make new keys if others may have seen them",
            )
        return os.read(descriptor, _MOST).decode("utf-8", errors="replace")
    finally:
        os.close(descriptor)
