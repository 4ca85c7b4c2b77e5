"""The sentiment model: from headlines to calibrated probabilities of bearish, neutral and bullish."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.core.errors import ModelError

STARTER: Final = "starter"
"""Name of the model that ships with the package. It is accepted in place of a model folder."""


def starter_dir() -> Path:
    """Return the folder of the shipped model; its LoRA adapter is in `adapter/` below it."""
    return Path(__file__).parent / "starter"


def model_dir(name: str | Path) -> Path:
    """Return the model folder for "starter" or a path. Raises ModelError if `~user` names an unknown user."""
    try:
        return starter_dir() if str(name) == STARTER else Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{name}: {error}", hint="name the folder by its whole path") from None
