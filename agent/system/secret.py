"""Secrets from the environment or from private files, in a type that can't be printed by mistake."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Never

from agent.core.errors import ConfigError, SafetyError
from agent.core.masking import MASK as MASK

_MOST: Final = 65_536  # bytes of a file


class Secret:
    """Text that is masked in every repr, log, format and traceback, and can't be pickled."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """Return the text itself; don't keep it in long-lived variables."""
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a secret can't be pickled")


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, with mode 0600 from the first byte. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)


def read_private(file: Path, what: str) -> str:
    """Read the text of a private file; errors call it `what`.

    A link is followed, as orchestrators mount secrets, and the file behind it is checked. Raises SafetyError
    if other users can read the file or it isn't a regular file, ConfigError if it can't be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"the {what} {file} can't be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SafetyError(f"the {what} {file} is not a regular file")
        if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise SafetyError(
                f"the {what} {file} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {file}, and replace the secrets if others may have read them",
            )
        return os.read(descriptor, _MOST).decode("utf-8", errors="replace")
    finally:
        os.close(descriptor)


def read_secret(variable: str, file: Path | None) -> Secret | None:
    """Read a secret from an environment variable, else from `file`; None if there is neither.

    Raises as `read_private`, and ConfigError if the file is empty.
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
