"""The fusion model: price features and what was read lately in, calibrated probabilities of down, flat and up out."""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("down", "flat", "up")
"""Order of every probability vector of this package: index 0, 1, 2."""
