"""Authentication: API key, signature over the raw bytes, and the time window of a request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.sandbox.bybit_errors import BybitError, parameter_error

_DEFAULT_WINDOW_MS: Final = 5_000
_AHEAD_MS: Final = 1_000


class Authenticator:
    """Verifies requests with one key and its secret.

    `clocks` returns the earliest and the latest time (UTC ms) that a client may legitimately use. At speed 1
    both are the current time; otherwise they are the machine's time and the market's time.
    """

    def __init__(self, key: str, secret: str, clocks: Callable[[], tuple[int, int]]) -> None:
        self.key = key
        self._secret = secret.encode()
        self._valid_times = clocks

    def check_request(self, headers: Mapping[str, str], payload: bytes) -> None:
        """Verify a REST request.

        `payload` is the query string or the body, byte for byte. Raises BybitError 10001 (malformed
        timestamp), 10002 (timestamp outside the window), 10003 (missing header with HTTP 401, or wrong key)
        or 10004 (wrong signature).
        """
        missing = [
            name for name in ("X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-SIGN") if not headers.get(name)
        ]
        if missing:
            raise BybitError(10003, f"Invalid request: header {', '.join(missing)} is missing", status=401)
        timestamp, window = headers["X-BAPI-TIMESTAMP"], headers.get("X-BAPI-RECV-WINDOW", "")
        self._check_key(headers["X-BAPI-API-KEY"])
        self.check_timestamp(timestamp, window)
        origin = f"{timestamp}{self.key}{window}".encode() + payload
        if not self._signed(origin, headers["X-BAPI-SIGN"]):
            raise BybitError(10004, f"error sign! origin_string[{origin.decode(errors='replace')}]")

    def check_timestamp(self, timestamp: object, window: object) -> None:
        """Raise BybitError 10002 unless earliest - window <= timestamp < latest + 1000 ms."""
        try:
            time, window_ms = int(str(timestamp)), int(str(window or _DEFAULT_WINDOW_MS))
        except ValueError:
            raise parameter_error(f"invalid timestamp or recv_window: {timestamp!r}, {window!r}") from None
        earliest, latest = self._valid_times()
        if not earliest - window_ms <= time < latest + _AHEAD_MS:
            raise BybitError(
                10002,
                "invalid request, please check your server timestamp or recv_window param. "
                f"req_timestamp[{time}],server_timestamp[{latest}],recv_window[{window_ms}]",
            )

    def check_socket_auth(self, args: object) -> None:
        """Verify a WebSocket's auth arguments: [key, expires, signature of `GET/realtime` + expires]."""
        fields: list[Any] = args if isinstance(args, list) else []
        if len(fields) != 3 or not str(fields[1]).isdigit():
            raise parameter_error("Params Error: args must be [apiKey, expires, signature]")
        key, expires, signature = (str(value) for value in fields)
        self._check_key(key)
        if int(expires) <= self._valid_times()[0]:
            raise BybitError(10004, "Request expired: expires is not after the server's time")
        if not self._signed(f"GET/realtime{expires}".encode(), signature):
            raise BybitError(10004, "Error sign, please check your signature generation algorithm.")

    def _check_key(self, key: str) -> None:
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            raise BybitError(10003, "API key is invalid.")

    def _signed(self, origin: bytes, signature: str) -> bool:
        return hmac.compare_digest(
            hmac.new(self._secret, origin, hashlib.sha256).hexdigest().encode(), signature.lower().encode()
        )
