"""Who is asking: API key, signature over the raw bytes, and the window that a timestamp must fall into."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.sandbox.errors import Refusal, parameter

_DEFAULT_WINDOW_MS: Final = 5_000
_AHEAD_MS: Final = 1_000


class Authenticator:
    """Checks requests against one key and its secret.

    `clocks` gives the earliest and the latest time (UTC ms) that a client may rightly believe in: both are now at speed 1, else the
    machine's time and the market's.
    """

    def __init__(self, key: str, secret: str, clocks: Callable[[], tuple[int, int]]) -> None:
        self.key = key
        self._secret = secret.encode()
        self._clocks = clocks

    def request(self, headers: Mapping[str, str], payload: bytes) -> None:
        """A REST request; `payload` is the query string or the body, byte for byte. Refuses with 10003, 10004, 10002 or 401."""
        missing = [
            name for name in ("X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-SIGN") if not headers.get(name)
        ]
        if missing:
            raise Refusal(10003, f"Invalid request: header {', '.join(missing)} is missing", status=401)
        timestamp, window = headers["X-BAPI-TIMESTAMP"], headers.get("X-BAPI-RECV-WINDOW", "")
        self._check_key(headers["X-BAPI-API-KEY"])
        self.timestamp(timestamp, window)
        origin = f"{timestamp}{self.key}{window}".encode() + payload
        if not self._signed(origin, headers["X-BAPI-SIGN"]):
            raise Refusal(10004, f"error sign! origin_string[{origin.decode(errors='replace')}]")

    def timestamp(self, stated: object, window: object) -> None:
        """earliest - window <= timestamp < latest + 1000, else 10002."""
        try:
            moment, reach = int(str(stated)), int(str(window or _DEFAULT_WINDOW_MS))
        except ValueError:
            raise parameter(f"invalid timestamp or recv_window: {stated!r}, {window!r}") from None
        earliest, latest = self._clocks()
        if not earliest - reach <= moment < latest + _AHEAD_MS:
            raise Refusal(
                10002,
                "invalid request, please check your server timestamp or recv_window param. "
                f"req_timestamp[{moment}],server_timestamp[{latest}],recv_window[{reach}]",
            )

    def socket(self, args: object) -> None:
        """A WebSocket's auth: [key, expires, signature of GET/realtime and expires]."""
        fields: list[Any] = args if isinstance(args, list) else []
        if len(fields) != 3 or not str(fields[1]).isdigit():
            raise parameter("Params Error: args must be [apiKey, expires, signature]")
        key, expires, signature = (str(value) for value in fields)
        self._check_key(key)
        if int(expires) <= self._clocks()[0]:
            raise Refusal(10004, "Request expired: expires is not after the server's time")
        if not self._signed(f"GET/realtime{expires}".encode(), signature):
            raise Refusal(10004, "Error sign, please check your signature generation algorithm.")

    def _check_key(self, key: str) -> None:
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            raise Refusal(10003, "API key is invalid.")

    def _signed(self, origin: bytes, signature: str) -> bool:
        return hmac.compare_digest(
            hmac.new(self._secret, origin, hashlib.sha256).hexdigest().encode(), signature.lower().encode()
        )
