"""A client of Telegram's Bot API: the four methods that commands need, with bounds on time and size.

The token is part of each URL, so no error or log line contains a URL.
"""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from agent.config.services import TelegramConfig
from agent.core.errors import ConfigError, VenueError
from agent.core.masking import mask_also
from agent.data.text import one_line
from agent.system.bounded_body import read_body
from agent.system.http_timeouts import NO_TOTAL
from agent.system.secret import Secret, read_secret
from agent.system.untrusted import JSON_DECODE_ERRORS

TOKEN: Final = "TAPEWIRE_TELEGRAM_TOKEN"
"""Environment variable of the bot's token."""

MOST_CHARACTERS: Final = 4_096
"""Of a message, in UTF-16 code units as the Bot API counts them."""

_TOKEN_FORM: Final = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,200}")
_MOST_BYTES: Final = 4_000_000  # of a response; one has at most a hundred updates
_UPDATES: Final = 100  # of a response
_LONGEST_REASON: Final = 200  # characters
_LONGEST_BAN: Final = 3_600.0  # seconds that `retry_after` may demand


def bot_token(config: TelegramConfig) -> Secret | None:
    """Read the bot's token; None without one.

    Raises like `read_secret`, and ConfigError if it doesn't have the form of a token.
    """
    secret = read_secret(TOKEN, config.token_file)
    if secret is not None and _TOKEN_FORM.fullmatch(secret.reveal()) is None:
        raise ConfigError(
            "the token of the Telegram bot does not have the form 123456:ABC…",
            hint=f"copy it from @BotFather into {TOKEN} or telegram.token_file",
        )
    return secret


class BotApiError(VenueError):
    """A request to the Bot API failed. `status` is the HTTP status, 0 without a response; `retry_after` is in
    seconds.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_final(self) -> bool:
        """True if the same request would fail again."""
        return 400 <= self.status < 500 and self.status not in (409, 429)


class BotUser(msgspec.Struct, frozen=True):
    """A user or bot. Fields that aren't used are left out, here and below."""

    id: int
    is_bot: bool = False
    username: str = ""

    @property
    def shown(self) -> str:
        """The unique name, or the id of a user without one."""
        return one_line(self.username, 64) or str(self.id)


class Chat(msgspec.Struct, frozen=True):
    """A private chat, group or channel."""

    id: int
    type: str = ""


class ChatMessage(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A message; `date` is in UTC seconds, 0 if Telegram no longer has the message."""

    chat: Chat
    date: int
    message_id: int = 0
    sender: BotUser | None = None
    text: str = ""
    forward_origin: dict[str, Any] | None = None


class ButtonPress(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A press on a button below a message (`CallbackQuery`)."""

    id: str
    sender: BotUser
    message: ChatMessage | None = None
    data: str = ""


class Update(msgspec.Struct, frozen=True):
    """What happened, numbered; of the kinds in `_KINDS`."""

    update_id: int
    message: ChatMessage | None = None
    callback_query: ButtonPress | None = None


class UpdateBatch(msgspec.Struct, frozen=True):
    """Updates of one response. `unreadable` of them have another form; `next_offset` confirms all."""

    updates: tuple[Update, ...]
    unreadable: int
    next_offset: int


class _Numbered(msgspec.Struct):
    update_id: int


class _Reply(msgspec.Struct):
    ok: bool
    result: msgspec.Raw = msgspec.Raw()
    description: str = ""
    parameters: dict[str, Any] = {}


_KINDS: Final = ("message", "callback_query")


class BotApi:
    """A session with the Bot API, as an async context. Its methods raise BotApiError.

    Redirects, proxies of the environment and cookies are not used.
    """

    def __init__(self, config: TelegramConfig, token: Secret) -> None:
        self._base = config.endpoint
        self._token = token
        self._timeout = config.timeout / 1000
        self._poll = config.poll // 1000
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=NO_TOTAL, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def me(self) -> BotUser:
        """Return the bot itself."""
        bot: BotUser = self._decode("getMe", await self._call("getMe", {}), BotUser)
        return bot

    async def updates(self, offset: int) -> UpdateBatch:
        """Wait for updates, and confirm those before `offset`; 0 confirms none."""
        params: dict[str, Any] = {"timeout": self._poll, "limit": _UPDATES, "allowed_updates": _KINDS}
        if offset:
            params["offset"] = offset
        raw = await self._call("getUpdates", params, held=float(self._poll))
        updates: list[Update] = []
        unreadable = 0
        for one in self._decode("getUpdates", raw, list[msgspec.Raw]):
            offset = max(offset, self._decode("getUpdates", one, _Numbered).update_id + 1)
            try:
                updates.append(msgspec.json.decode(one, type=Update))
            except JSON_DECODE_ERRORS:
                unreadable += 1
        return UpdateBatch(tuple(updates), unreadable, offset)

    async def send(self, chat: int, text: str, buttons: tuple[tuple[str, str], ...] = ()) -> None:
        """Send a text in Telegram's HTML. `buttons` are captions with the data that their presses return."""
        params: dict[str, Any] = {
            "chat_id": chat,
            "text": text,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        if buttons:
            row = [{"text": caption, "callback_data": data} for caption, data in buttons]
            params["reply_markup"] = {"inline_keyboard": [row]}
        await self._call("sendMessage", params)

    async def answer(self, press: str, text: str, *, alert: bool = False) -> None:
        """Respond to the press of a button with a short text, shown over the chat."""
        params = {"callback_query_id": press, "text": text[:_LONGEST_REASON], "show_alert": alert}
        await self._call("answerCallbackQuery", params)

    async def _call(self, method: str, params: dict[str, Any], *, held: float = 0.0) -> bytes:
        """Return the result of a method as JSON. The server may hold the request for `held` seconds."""
        session = self._session
        if session is None:
            raise BotApiError(f"{method}: the session is not open")
        url = f"{self._base}/bot{self._token.reveal()}/{method}"
        try:
            async with (
                asyncio.timeout(held + self._timeout),
                session.post(url, json=params, allow_redirects=False) as response,
            ):
                status, body = response.status, await read_body(response, _MOST_BYTES)
        except VenueError as error:
            raise BotApiError(f"{method}: {error.message}") from None
        except TimeoutError:
            raise BotApiError(f"{method}: no response within {held + self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BotApiError(f"{method}: {type(error).__name__}: {self._shown(str(error))}") from None
        return self._result(method, status, body)

    def _result(self, method: str, status: int, body: bytes) -> bytes:
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except JSON_DECODE_ERRORS:
            final = status if status >= 300 else 0
            raise BotApiError(
                f"{method}: status {status}, but no answer of the Bot API", status=final
            ) from None
        if reply.ok and status < 300:
            return bytes(reply.result)
        wait = reply.parameters.get("retry_after", 0)
        seconds = float(wait) if isinstance(wait, int | float) and wait >= 0 else 0.0
        reason = self._shown(reply.description) or "no reason given"
        raise BotApiError(
            f"{method}: {status} {reason}",
            status=status,
            retry_after=min(seconds, _LONGEST_BAN),
            hint=_HINTS.get(status, ""),
        )

    def _decode(self, method: str, raw: bytes | msgspec.Raw, kind: Any) -> Any:
        try:
            return msgspec.json.decode(raw, type=kind)
        except JSON_DECODE_ERRORS as error:
            raise BotApiError(f"{method}: another result than that of the Bot API: {error}") from None

    def _shown(self, text: str) -> str:
        """Return a text on one line without the token."""
        return mask_also(one_line(text, _LONGEST_REASON), (self._token.reveal(),))


_HINTS: Final = {
    401: "the token is wrong or revoked: copy it from @BotFather",
    404: "the token is wrong or revoked: copy it from @BotFather",
    409: "another program reads this bot's messages, or it has a webhook: give each agent a bot of its own",
}
