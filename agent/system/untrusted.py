"""What reading the JSON of strangers can raise, in one place: each of these means that it is none of ours."""

from __future__ import annotations

from typing import Final

import msgspec

JSON_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Of `msgspec.json.decode`: no JSON or another shape, no UTF-8, and nested deeper than the stack (a field that nobody reads is enough)."""
