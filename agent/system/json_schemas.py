"""JSON Schemas that msgspec generates, as the messages are sent."""

from __future__ import annotations

import math
from typing import Any


def allow_null(node: Any) -> Any:
    """Return a schema that allows null for numbers that may be NaN, which JSON doesn't have."""
    if isinstance(node, list):
        return [allow_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    default = node.get("default")
    if isinstance(default, float) and math.isnan(default):
        return {**node, "type": [node["type"], "null"], "default": None}
    return {key: allow_null(value) for key, value in node.items()}
