"""One agent a folder: two would trade the same account."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.errors import SafetyError, StoreError

LOCK: Final = "tapewire.lock"
"""Its name in `live.folder`."""


@contextmanager
def instance_lock(path: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the process ends, however it ends.

    Raises SafetyError where another process holds it, StoreError where the file can't be had.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise StoreError(f"{path} can't be opened: {error.strerror}", hint="give this user the right to write there") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise SafetyError(
                f"an agent is running already, process {holder or 'unknown'}, which holds {path}",
                hint="stop it, or give this one another live.folder and store.url",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
