"""Which program this is: what the workers of a cluster must have in common with the command they work for."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

import agent
import models
import strategies
from agent.core.engine import CORE_REVISION
from agent.core.errors import UsageError
from models.cards import read_card
from models.sentiment import starter_dir


class Program(msgspec.Struct, frozen=True):
    """Versions on which results, or the record of a run, depend."""

    version: str  # of Tapewire
    core: str  # its revision; "stale" if the compiled modules are not made from the sources
    sources: str  # SHA-256 of the Python files of Tapewire
    starter: str  # fingerprint of the model that is shipped with it
    python: str
    numpy: str


@cache
def this_program() -> Program:
    """Return the identity of this process's program."""
    root = Path(agent.__file__).parents[1]
    digest = hashlib.sha256()
    for package in (agent, models, strategies):
        folder = Path(package.__file__ or "").parent
        for file in sorted(folder.rglob("*.py")):
            if "_resources" not in file.parts:
                digest.update(f"{file.relative_to(folder.parent).as_posix()}\0".encode() + file.read_bytes())
    return Program(
        agent.__version__,
        CORE_REVISION + (" (stale)" if _is_stale(root) else ""),
        digest.hexdigest()[:16],
        read_card(starter_dir()).fingerprint,
        platform.python_version(),
        np.__version__,
    )


def check_program(expected: Program, where: str) -> None:
    """Raise UsageError if this process's program is another one than `expected`; `where` names the worker."""
    own = this_program()
    differing = [
        f"{name} {getattr(own, name)} instead of {getattr(expected, name)}"
        for name in Program.__struct_fields__
        if getattr(own, name) != getattr(expected, name)
    ]
    if differing:
        raise UsageError(
            f"worker {where} runs another program: {', '.join(differing)}",
            hint="install the same Tapewire there, for the same Python and NumPy, and restart the worker",
        )


def _is_stale(root: Path) -> bool:
    """Return whether the compiled modules were made from other sources than those beside them."""
    try:
        made_from = json.loads((root / "agent" / "_compiled.json").read_bytes())["sources"]
    except FileNotFoundError:
        return False
    return any(
        hashlib.sha256((root / name).read_bytes()).hexdigest() != sha256
        for name, sha256 in made_from.items()
        if (root / name).is_file() and name.startswith("agent/")
    )
