"""Sentiment of headlines: text in, calibrated probabilities of bearish, neutral and bullish out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.core.errors import ModelError

STARTER: Final = "starter"
"""The name, wherever a model folder is asked for, of the model that ships with the package."""


def starter_dir() -> Path:
    """Folder of the shipped model, ready to serve; its LoRA adapter is in `adapter/` below it."""
    return Path(__file__).parent / "starter"


def model_dir(name: str | Path) -> Path:
    """The folder that a person means: `starter`, or a path. Raises ModelError for the home of a user that doesn't exist."""
    try:
        return starter_dir() if str(name) == STARTER else Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{name}: {error}", hint="name the folder by its whole path") from None
