"""The fusion model: from price features and recent headlines to calibrated probabilities of down, flat
and up.
"""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("down", "flat", "up")
"""Order of every probability vector of this package."""
