"""The sentiment model: from headlines to calibrated probabilities of bearish, neutral and bullish."""

from models.sentiment.serve.model_paths import (
    ENSEMBLE,
    SERVER,
    STARTER,
    absolute,
    is_local,
    model_dir,
    starter_dir,
)

__all__ = [
    "ENSEMBLE",
    "SERVER",
    "STARTER",
    "absolute",
    "is_local",
    "model_dir",
    "starter_dir",
]
