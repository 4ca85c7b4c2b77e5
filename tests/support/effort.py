"""How much the suite tries: few cases of what earlier runs have tried often, or many in `make test-long`."""

from __future__ import annotations

import os
from typing import Any, Final

from hypothesis import HealthCheck, settings

LONG: Final = os.environ.get("TAPEWIRE_TESTS") == "long"


def usual(number: int, *, long: int) -> int:
    """Return `number`, or `long` in a long run."""
    return long if LONG else number


def limit_examples() -> None:
    """Set the number of examples of the properties that don't state their own.

    Every run draws others, so what few examples miss, one of the next runs finds. No property fails because
    the machine is slow.
    """
    any_time: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("usual", max_examples=25, **any_time)
    settings.register_profile("long", max_examples=100, **any_time)
    settings.load_profile("long" if LONG else "usual")
