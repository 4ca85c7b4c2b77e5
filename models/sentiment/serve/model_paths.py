"""What `model.path` may name: the shipped model, a folder, a language model at a server, an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.core.errors import ModelError

STARTER: Final = "starter"
"""Name of the model that ships with the package. It is accepted in place of a model folder."""

SERVER: Final = "openai:"
"""Prefix of a language model at a server, `openai:URL#MODEL`."""
ENSEMBLE: Final = "ensemble:"
"""Prefix of the folder of an ensemble."""


def is_local(name: str) -> bool:
    """Return whether `name` is `starter` or a folder with one model."""
    return not name.startswith((SERVER, ENSEMBLE))


def absolute(name: str) -> str:
    """Return `name` with its folder made absolute, so that a process in another folder can open it."""
    if name == STARTER or name.startswith(SERVER):
        return name
    prefix = ENSEMBLE if name.startswith(ENSEMBLE) else ""
    return f"{prefix}{Path(name.removeprefix(prefix)).expanduser().absolute()}"


def starter_dir() -> Path:
    """Return the folder of the shipped model; its LoRA adapter is in `adapter/` below it."""
    return Path(__file__).parent.parent / "starter"


def model_dir(name: str | Path) -> Path:
    """Return the model folder for "starter" or a path. Raises ModelError if `~user` names an unknown user."""
    try:
        return starter_dir() if str(name) == STARTER else Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{name}: {error}", hint="name the folder by its whole path") from None
