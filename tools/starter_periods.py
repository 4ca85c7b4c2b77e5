"""What the starter was trained on and what was held out: months of the labelled wire, parts of other sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from models.sentiment.train.splits import Fractions

LEARNED_UNTIL: Final = datetime(2023, 9, 1, tzinfo=UTC)
CALIBRATED_UNTIL: Final = datetime(2023, 10, 1, tzinfo=UTC)
KNOWN_UNTIL: Final = datetime(2023, 11, 1, tzinfo=UTC)
"""Headlines before the first are learned from, those until the second calibrate, and those until the third
measure.
"""
SPLIT_SEED: Final = 7
FRACTIONS: Final = Fractions(validation=0.02, calibration=0.1, test=0.1)
"""Split of the sets without dates, with that seed."""
