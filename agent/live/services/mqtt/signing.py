"""Commands authenticated by a shared secret and accepted once: HMAC-SHA256 over the command, its time and
nonce.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from typing import Final, Literal

import msgspec

from agent.core.durations import format_duration
from agent.core.errors import SafetyError
from agent.live.services.mqtt.mqtt_messages import CommandBody, SignedMessage
from agent.system.clock import iso
from agent.system.secret import Secret
from agent.system.untrusted import JSON_DECODE_ERRORS

Purpose = Literal["command", "answer"]

_LONGEST_NONCE: Final = 64
_LONGEST_NAME: Final = 64


class ForgedError(SafetyError):
    """A message without a valid signature, or a replayed one. It gets no reply."""


def sign(secret: Secret, purpose: Purpose, body: msgspec.Struct) -> SignedMessage:
    """Sign `body` for a purpose."""
    text = msgspec.json.encode(body).decode()
    return SignedMessage(text, _mac(secret, purpose, text))


def verify(secret: Secret, purpose: Purpose, payload: bytes) -> str:
    """Return the body's text. Raises ForgedError if it isn't signed for this purpose."""
    try:
        message = msgspec.json.decode(payload, type=SignedMessage)
    except JSON_DECODE_ERRORS as error:
        raise ForgedError(f"not a signed message: {error}") from None
    if not hmac.compare_digest(_mac(secret, purpose, message.body).encode(), message.mac.encode()):
        raise ForgedError("the signature is wrong", hint="both sides need the same secret")
    return message.body


def _mac(secret: Secret, purpose: Purpose, text: str) -> str:
    return hmac.new(secret.reveal().encode(), f"{purpose}\n{text}".encode(), hashlib.sha256).hexdigest()


class ReplayGuard:
    """Admits each signed command once, while it is recent. `began` (UTC ms) is the start of this life.

    A command is refused if its time is more than `window` ms in the past or future, or before this life,
    since an earlier life may have seen its nonce. So nonces are remembered for only two windows.
    """

    def __init__(self, secret: Secret, prefix: str, window: int, began: int) -> None:
        self._secret = secret
        self._prefix = prefix
        self._window = window
        self._began = began
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()

    def admit(self, payload: bytes, now: int) -> tuple[CommandBody, SafetyError | None]:
        """Return the command, and why it is refused or None. Raises ForgedError for a message to ignore."""
        text = verify(self._secret, "command", payload)
        try:
            body = msgspec.json.decode(text, type=CommandBody)
        except JSON_DECODE_ERRORS as error:
            raise ForgedError(f"signed, but not a command: {error}") from None
        return body, self._refusal(body, now)

    def _refusal(self, body: CommandBody, now: int) -> SafetyError | None:
        if body.to != self._prefix:
            return SafetyError(f"the command is for {body.to!r}, but this is {self._prefix!r}")
        if not 0 < len(body.nonce) <= _LONGEST_NONCE or len(body.by) > _LONGEST_NAME:
            return SafetyError(
                f"a nonce has 1 to {_LONGEST_NONCE} characters, a name at most {_LONGEST_NAME}"
            )
        if abs(now - body.at) > self._window:
            return SafetyError(
                f"its time {iso(body.at)} is more than {format_duration(self._window)} from {iso(now)}",
                hint="correct the clocks",
            )
        if body.at < self._began:
            return SafetyError("it was sent before this agent started", hint="send it again")
        while self._order and self._order[0][0] < now - 2 * self._window:
            self._seen.discard(self._order.popleft()[1])
        if body.nonce in self._seen:
            raise ForgedError("its nonce was used before", hint="each command needs a fresh one")
        self._seen.add(body.nonce)
        self._order.append((now, body.nonce))
        return None
