"""A loopback server that speaks Telegram's Bot API: long polling with offsets, messages, buttons, and faults.

It refuses what Telegram refuses: texts that are too long or not valid HTML, data of buttons beyond 64 bytes,
answers to unknown presses, and a second poller.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from html import unescape
from html.parser import HTMLParser
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web

TOKEN = "123456789:AAE-secret_T0ken-of-a-bot_xyzXYZ0123456"
BOT = "tapewire_test_bot"
_TAGS = frozenset(("b", "i", "u", "s", "code", "pre"))
_METHODS = ("getMe", "getUpdates", "sendMessage", "answerCallbackQuery")


class Fault(NamedTuple):
    """What a method does once instead of its work: an error, a text, or `seconds` of silence."""

    status: int = 0
    body: str = ""
    retry_after: int = 0
    description: str = ""
    seconds: float = 0.0


class _Html(HTMLParser):
    """Reads Telegram's HTML: the text without markup, and what is wrong with it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.text = ""
        self.problem = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self.problem = f'Unsupported start tag "{tag}"'
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problem = f'Unexpected end tag "{tag}"'

    def handle_data(self, data: str) -> None:
        if "<" in data:
            self.problem = "Unsupported start tag"
        self.text += data

    def handle_entityref(self, name: str) -> None:
        if name not in ("lt", "gt", "amp", "quot"):
            self.problem = f"Unsupported entity {name}"
        self.text += unescape(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.text += unescape(f"&#{name};")

    def finish(self) -> None:
        self.close()
        if self._open:
            self.problem = f'Can\'t find end tag corresponding to start tag "{self._open[-1]}"'


class Sent(NamedTuple):
    """A message that the bot has sent; `text` is without markup."""

    chat: int
    text: str
    html: str
    buttons: dict[str, str]  # caption -> data
    at: float  # of the event loop


class TelegramServer:
    """An async context that serves one bot at `url`."""

    def __init__(self) -> None:
        self.url = ""
        self.sent: list[Sent] = []
        self.answers: dict[str, tuple[str, bool]] = {}  # press -> text, alert
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.calls: list[tuple[str, dict[str, Any], float]] = []  # method, parameters, time
        self.conflicts = 0
        self.presses: set[str] = set()
        self._updates: list[dict[str, Any]] = []
        self._next = 700_000_001
        self._changed = asyncio.Event()
        self._poll: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._call)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # -- what people do --------------------------------------------------------------------------------

    def write(
        self, chat: int, text: str, *, user: str = "ann", age: float = 0.0, **more: Any
    ) -> dict[str, Any]:
        """A user sends a text to a chat `age` seconds ago; return the update, to deliver it again."""
        message = {
            "message_id": self._next % 1000,
            "date": int(time.time() - age),
            "chat": {"id": chat, "type": "private" if chat > 0 else "group", "first_name": "Ann"},
            "from": {"id": user_id(user), "is_bot": False, "first_name": user.title(), "username": user},
            "text": text,
        }
        return self.deliver({"message": message | more})

    def press(self, data: str, chat: int, *, user: str = "ann") -> str:
        """A user presses a button; return the press's id."""
        press = str(self._next * 7)
        self.presses.add(press)
        query = {
            "id": press,
            "from": {"id": user_id(user), "is_bot": False, "first_name": user.title(), "username": user},
            "message": {"message_id": 1, "date": 0, "chat": {"id": chat, "type": "private"}},
            "chat_instance": "1",
            "data": data,
        }
        self.deliver({"callback_query": query})
        return press

    def deliver(self, update: dict[str, Any]) -> dict[str, Any]:
        """Put an update into the bot's queue, with the next number unless it has one."""
        update = {"update_id": self._next} | update
        self._next = max(self._next, update["update_id"]) + 1
        self._updates.append(update)
        self._changed.set()
        return update

    def renumber(self, number: int) -> None:
        """Continue with another number, as Telegram may after a week without messages."""
        self._next = number

    @property
    def unconfirmed(self) -> int:
        """Updates that the bot hasn't confirmed."""
        return len(self._updates)

    def texts(self, chat: int) -> list[str]:
        """The texts that a chat has received."""
        return [one.text for one in self.sent if one.chat == chat]

    def buttons(self, chat: int) -> dict[str, str]:
        """The buttons of the last message of a chat that has some."""
        return next((one.buttons for one in reversed(self.sent) if one.chat == chat and one.buttons), {})

    # -- the Bot API -----------------------------------------------------------------------------------

    async def _call(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        params = await request.json()
        self.calls.append((method, params, asyncio.get_running_loop().time()))
        if self.faults[method]:
            fault = self.faults[method].popleft()
            await asyncio.sleep(fault.seconds)
            if fault.body:
                return web.Response(status=fault.status or 200, text=fault.body)
            if fault.status:
                return refusal(fault.status, fault.description or "Bad Gateway", fault.retry_after)
        if request.match_info["token"] != TOKEN:
            return refusal(401, "Unauthorized")
        if method not in _METHODS:
            return refusal(404, "Not Found")
        return await getattr(self, f"_{method}")(params)

    async def _getMe(self, params: dict[str, Any]) -> web.Response:
        return result({"id": 123456789, "is_bot": True, "first_name": "Tapewire", "username": BOT})

    async def _getUpdates(self, params: dict[str, Any]) -> web.Response:
        """Confirm what is before `offset`, and return the rest, as soon as there is any."""
        if self._poll is not None:  # the newer request ends the older one
            self._poll.set()
        replaced = self._poll = asyncio.Event()
        ends = asyncio.get_running_loop().time() + params.get("timeout", 0)
        offset = params.get("offset", 0)
        self._updates = [one for one in self._updates if one["update_id"] >= offset]
        try:
            while not self._updates and (left := ends - asyncio.get_running_loop().time()) > 0:
                self._changed.clear()
                waits = {asyncio.ensure_future(one.wait()) for one in (self._changed, replaced)}
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for one in waits:
                    one.cancel()
                if replaced.is_set():
                    self.conflicts += 1
                    text = "Conflict: terminated by other getUpdates request; make sure that only one bot"
                    return refusal(409, f"{text} instance is running")
        finally:
            if self._poll is replaced:
                self._poll = None
        return result(self._updates[: params.get("limit", 100)])

    async def _sendMessage(self, params: dict[str, Any]) -> web.Response:
        is_html = params.get("parse_mode") == "HTML"
        text, problem = text_of(params["text"]) if is_html else (params["text"], "")
        if problem:
            return refusal(400, f"Bad Request: can't parse entities: {problem}")
        if not text.strip():
            return refusal(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > 4096:
            return refusal(400, "Bad Request: message is too long")
        rows = params.get("reply_markup", {}).get("inline_keyboard", [])
        buttons = {one["text"]: one["callback_data"] for row in rows for one in row}
        if any(not 1 <= len(data.encode()) <= 64 for data in buttons.values()):
            return refusal(400, "Bad Request: BUTTON_DATA_INVALID")
        at = asyncio.get_running_loop().time()
        self.sent.append(Sent(params["chat_id"], text, params["text"], buttons, at))
        return result(
            {"message_id": len(self.sent), "date": int(time.time()), "chat": {"id": params["chat_id"]}}
        )

    async def _answerCallbackQuery(self, params: dict[str, Any]) -> web.Response:
        press = params["callback_query_id"]
        if press not in self.presses or press in self.answers:
            return refusal(
                400, "Bad Request: query is too old and response timeout expired or query ID is invalid"
            )
        if len(params["text"]) > 200:
            return refusal(400, "Bad Request: MESSAGE_TOO_LONG")
        self.answers[press] = params["text"], params.get("show_alert", False)
        return result(True)


def text_of(html: str) -> tuple[str, str]:
    """Return the text of Telegram's HTML, and what is wrong with it."""
    reader = _Html()
    reader.feed(html)
    reader.finish()
    return reader.text, reader.problem


def user_id(user: str) -> int:
    """A user's id, from the name."""
    return 5_000_000_000 + int.from_bytes(user.encode()[:3], "big")


def result(value: Any) -> web.Response:
    return web.json_response({"ok": True, "result": value})


def refusal(status: int, description: str, retry_after: int = 0) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if retry_after:
        body["parameters"] = {"retry_after": retry_after}
    return web.json_response(body, status=status)
