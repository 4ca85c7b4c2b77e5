"""API keys, from the environment or a private file, in a type that can't be printed by mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agent.core.errors import ConfigError
from agent.system.secret import Secret, read_private

KEY: Final = "TAPEWIRE_API_KEY"
SECRET: Final = "TAPEWIRE_API_SECRET"


class Credentials(NamedTuple):
    """An API key and its secret."""

    key: Secret
    secret: Secret


def load_credentials(file: Path | None, environment: Mapping[str, str] = os.environ) -> Credentials:
    """Read keys from `file` (key and secret in two lines) if one is given, else from the environment.

    Raises SafetyError for a file that other users can read, ConfigError without keys.
    """
    if file is not None:
        lines = read_private(file, "key file").split()
        if len(lines) != 2:
            raise ConfigError(f"{file} holds no API key and secret", hint="write two lines: key, then secret")
        return Credentials(Secret(lines[0]), Secret(lines[1]))
    key, secret = environment.get(KEY, "").strip(), environment.get(SECRET, "").strip()
    if not key or not secret:
        missing = " and ".join(name for name, value in ((KEY, key), (SECRET, secret)) if not value)
        raise ConfigError(
            f"there are no API keys: {missing} is not set",
            hint="set both, or name a file in execution.testnet.key_file",
        )
    return Credentials(Secret(key), Secret(secret))
