"""Commands from listed chats to the agent, by long polling of the Bot API.

The chat alone decides who may command. A message counts only if it was sent recently and after this start of
the agent, so commands that waited at Telegram while it was down are never executed. `flatten` and `kill` are
executed after the press of a button that is bound to chat, user, run and a short time.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Never, TypeVar

import structlog

from agent.analysis.report.formats import duration
from agent.config.services import TelegramConfig
from agent.core.errors import SafetyError, TapewireError
from agent.core.risk import KILL, RESUME_FROM_KILL
from agent.data.text import one_line
from agent.live.interfaces.producer import Emit, Health
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.services.telegram.bot_api import (
    BotApi,
    BotApiError,
    BotUser,
    ButtonPress,
    ChatMessage,
    Update,
)
from agent.live.services.telegram.confirmations import Confirmations
from agent.live.services.telegram.recorded_results import RecordedResults
from agent.live.services.telegram.replies import (
    HELP,
    confirmation_text,
    error_text,
    joined,
    killed_text,
    result_text,
    safe,
    status_text,
    trades_text,
)
from agent.live.services.telegram.reply_queue import Reply, ReplyQueue
from agent.store.database import Database
from agent.system.backoff import delays
from agent.system.clock import Clock, WallClock
from agent.system.secret import Secret
from agent.system.untrusted import Allowance, Throttle

T = TypeVar("T")

_AT_ONCE: Final = 8  # commands executed concurrently
_KILLS: Final = 10  # a minute and chat, beside the other commands
_COMMAND_TIMEOUT: Final = 30.0  # seconds that a command may take
_SHORTEST_POLL: Final = 1.0  # seconds from one request for messages to the next, if it returned none
_SEEN: Final = 1_000  # updates that are remembered
_NOTE_EVERY: Final = 3_600.0  # seconds between two log lines on the same fault
_PERSISTENT: Final = (401, 404, 409)  # faults that a person has to correct
_DIRECT: Final = ("pause", "resume")
_CONFIRMED: Final = ("flatten", "kill")
_YES: Final = "yes:"
_NO: Final = "no:"
_log: Final = structlog.get_logger(__name__)


class TelegramHealth(Health):
    """`Health` of the bot; messages are those of listed chats."""

    ignored: int = 0  # messages and presses of chats that aren't listed
    last_ignored: int = 0  # id of the last such chat
    refused: int = 0  # commands too old or too many, and confirmations that don't count
    commands: int = 0  # given to the agent
    dropped: int = 0  # replies that were not sent
    waiting: int = 0  # replies
    bot: str = ""


class TelegramBot:
    """A companion of the agent that executes commands of the listed chats; it never blocks the core.

    Message times are compared with the system clock, also if a sandbox runs faster; `clock` is the agent's.
    """

    name = "telegram"

    def __init__(
        self,
        config: TelegramConfig,
        token: Secret,
        agent: RunningAgent,
        clock: Clock,
        database: Database,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._token = token
        self._agent = agent
        self._clock = clock
        self._database = database
        self._rng = rng or random.Random()
        self._wall = WallClock()
        self._began = self._wall.now()
        self._health = TelegramHealth(self.name)
        self._confirmations = Confirmations(config.confirm_within / 1000)
        self._replies = ReplyQueue(config.reconnect, self._rng, self._note_drop)
        self._offset = 0  # of the next request for updates; 0 once all are confirmed
        self._seen: deque[int] = deque(maxlen=_SEEN)
        self._allowances: dict[tuple[int, bool], Allowance] = {}
        self._faults: dict[int, Throttle] = {}  # by HTTP status
        self._ignored = Throttle()
        self._refused = Throttle()
        self._lost = Throttle()
        self._results: RecordedResults | None = None
        self._reading = asyncio.Lock()

    @property
    def health(self) -> TelegramHealth:
        self._health.waiting = len(self._replies)
        return self._health

    async def run(self, emit: Emit) -> None:
        """Read messages and send replies until cancelled."""
        self._health.state = "connecting"
        try:
            async with BotApi(self._config, self._token) as api, asyncio.TaskGroup() as tasks:
                running = CommandTasks(tasks)
                tasks.create_task(self._replies.send_all(api))
                await self._poll(api, running)
        finally:
            self._health.state = "stopped"

    # -- polling ---------------------------------------------------------------------------------------

    async def _poll(self, api: BotApi, running: CommandTasks) -> Never:
        loop = asyncio.get_running_loop()
        waits = delays(self._config.reconnect, self._rng)
        while True:
            began = loop.time()
            try:
                if not self._health.bot:
                    await self._introduce(api)
                batch = await api.updates(self._offset)
            except BotApiError as error:
                await asyncio.sleep(self._wait_after(error, next(waits)))
                continue
            waits = delays(self._config.reconnect, self._rng)
            if self._health.state != "live":
                self._health.state = "live"
                self._health.connects += 1
                log = _log.info if self._health.connects == 1 else _log.debug
                log("telegram is read", bot=self._health.bot, chats=len(self._config.chats))
            if batch.unreadable:
                self._health.failed(f"{batch.unreadable} updates have another form", self._wall.now())
            # An answered request confirms what was before its offset. Without messages for a week, Telegram
            # goes on with other numbers, maybe lower ones: so no offset is sent that isn't needed.
            self._offset = batch.next_offset if batch.updates or batch.unreadable else 0
            new = [one for one in batch.updates if one.update_id not in self._seen]
            self._seen.extend(one.update_id for one in new)
            self._handle(new, running)
            if not new:
                await asyncio.sleep(max(0.0, began + _SHORTEST_POLL - loop.time()))

    async def _introduce(self, api: BotApi) -> None:
        """Learn the bot's name, by which commands in groups address it."""
        self._health.bot = one_line((await api.me()).username, 64)
        if not self._config.chats:
            _log.warning(
                "telegram.chats is empty, so the bot obeys nobody",
                hint="write to it: the status and the log then have the chat's id",
            )

    def _wait_after(self, error: BotApiError, wait: float) -> float:
        """Note a failed request; return the seconds to wait."""
        self._health.state = "waiting"
        self._health.failed(f"{error.message}: {error.hint}" if error.hint else error, self._wall.now())
        throttle = self._faults.setdefault(error.status, Throttle(_NOTE_EVERY))
        if count := throttle.due():
            _log.warning("telegram can't be read", reason=error.message, hint=error.hint, count=count)
        if error.status in _PERSISTENT:
            wait = max(wait, self._config.reconnect.ceiling / 1000)
        return max(wait, error.retry_after)

    # -- messages --------------------------------------------------------------------------------------

    def _handle(self, updates: list[Update], running: CommandTasks) -> None:
        late: dict[int, list[str]] = {}
        for update in updates:
            message, press = update.message, update.callback_query
            chat = message.chat if message else press.message.chat if press and press.message else None
            if chat is None:  # a button below a message that another bot passed on
                self._health.ignored += 1
                continue
            if chat.id not in self._config.chats:
                self._ignore(chat.id, message.sender if message else press.sender if press else None)
                continue
            self._health.messages += 1
            self._health.last_message_at = self._clock.now()
            if press is not None:
                self._on_press(chat.id, press, running)
            elif message is not None and (why := self._untimely(message)):
                if message.text.startswith("/"):
                    late.setdefault(chat.id, []).append(f"{safe(message.text, 60)} ({why})")
            elif message is not None:
                self._on_message(message, running)
        for chat_id, lines in late.items():
            self._health.refused += len(lines)
            _log.warning("commands are too old", chat=chat_id, count=len(lines))
            head = "Not executed, since it is too old or was sent before the agent started:"
            self._replies.put(Reply(chat_id, joined([head, *lines, "/status shows how things are"])))

    def _ignore(self, chat: int, sender: BotUser | None) -> None:
        self._health.ignored += 1
        self._health.last_ignored = chat
        if count := self._ignored.due():
            _log.warning(
                "a chat that isn't listed is ignored",
                chat=chat,
                user=sender.shown if sender else "",
                count=count,
                hint="telegram.chats lists those that may command",
            )

    def _untimely(self, message: ChatMessage) -> str:
        """Return why a message isn't recent; empty if it is."""
        now, sent = self._wall.now(), message.date * 1000
        if now - sent > self._config.max_age:
            return f"sent {duration(now - sent)} ago"
        if sent - now > self._config.max_age:
            return f"its time is {duration(sent - now)} ahead of this machine's clock"
        return "sent before the agent started" if sent < self._began else ""

    def _on_message(self, message: ChatMessage, running: CommandTasks) -> None:
        command, rest = self._parse(message.text)
        if not command:
            if message.chat.type == "private" and message.text and self._admit(message.chat.id, kill=False):
                self._say(message.chat.id, "/help lists the commands")
            return
        chat = message.chat.id
        if message.forward_origin is not None:
            self._refuse(chat, SafetyError(f"/{command} is forwarded, and not executed", hint="type it"))
        elif self._admit(chat, kill=command == KILL):
            sender = message.sender or BotUser(0)
            running.start(
                lambda: self._obey(chat, sender, command, rest),
                lambda why: self._refuse(chat, why),
                always=command == KILL,
            )

    def _parse(self, text: str) -> tuple[str, str]:
        """Split a text into command and arguments; the command is empty without one for this bot."""
        if not text.startswith("/"):
            return "", ""
        first, _, rest = one_line(text[1:], 200).partition(" ")
        command, at, name = first.partition("@")
        return (
            ("", "") if at and name.lower() != self._health.bot.lower() else (command.lower(), rest.strip())
        )

    def _admit(self, chat: int, *, kill: bool) -> bool:
        """Count a command; beyond the chat's limit refuse it, with a reply once a minute. A kill has another
        limit.
        """
        limit = _KILLS if kill else self._config.commands_per_minute
        allowance = self._allowances.setdefault((chat, kill), Allowance(limit))
        if allowance.take():
            return True
        self._health.refused += 1
        if allowance.used == limit + 1:
            self._say(chat, f"⚠ more than {limit} commands a minute: wait {allowance.retry_after()} s")
        return False

    def _on_press(self, chat: int, press: ButtonPress, running: CommandTasks) -> None:
        answer, _, code = press.data.partition(":")
        try:
            if f"{answer}:" not in (_YES, _NO):
                raise SafetyError("this button is not one of the agent's")
            pending = self._confirmations.redeem(code, chat, press.sender.id, self._agent.run_id)
        except SafetyError as error:
            self._refuse(chat, error, press=press.id)
            return
        if f"{answer}:" == _NO:
            self._replies.put(Reply(chat, f"{pending.action} is not executed", press=press.id))
            return
        self._replies.put(Reply(chat, f"{pending.action} is executed", press=press.id))
        sender, args = press.sender, pending.args
        running.start(
            lambda: self._command(chat, sender, pending.action, args),
            lambda why: self._refuse(chat, why),
            always=pending.action == KILL,
        )

    # -- commands --------------------------------------------------------------------------------------

    async def _obey(self, chat: int, sender: BotUser, command: str, rest: str) -> None:
        if command in ("help", "start"):
            self._say(chat, HELP)
        elif command == "status":
            await self._tell_status(chat)
        elif command == "trades":
            await self._tell_trades(chat)
        elif command == "pause":
            await self._command(chat, sender, "pause", {})
        elif command == "resume":
            await self._resume(chat, sender, rest)
        elif command in _CONFIRMED:
            self._ask(chat, sender, command, rest)
        else:
            self._say(chat, f"/{safe(command, 40)} is not a command; /help lists them")

    async def _resume(self, chat: int, sender: BotUser, phrase: str) -> None:
        killed = killed_text(self._agent.status())
        if killed and phrase != RESUME_FROM_KILL:
            self._health.refused += 1
            self._say(chat, killed)
            return
        if phrase and not killed:
            phrase = ""  # it confirms nothing
        await self._command(chat, sender, "resume", {"confirm": phrase} if phrase else {})

    def _ask(self, chat: int, sender: BotUser, action: str, rest: str) -> None:
        """Send the button that confirms a command."""
        if rest and (action, rest.lower()) != ("kill", "flatten"):
            self._say(chat, f"/{action} {safe(rest, 60)}: only <code>/kill flatten</code> has an argument")
            return
        args = {"flatten": "true"} if rest else {}
        status = self._agent.status()
        code = self._confirmations.request(chat, sender.id, status.run, action, args)
        caption = "Flatten" if action == "flatten" else "Kill and close positions" if rest else "Kill"
        text = confirmation_text(action, args, status, self._config.confirm_within / 1000)
        buttons = ((f"✔ {caption}", f"{_YES}{code}"), ("Cancel", f"{_NO}{code}"))
        self._replies.put(Reply(chat, text, buttons=buttons))

    async def _command(self, chat: int, sender: BotUser, action: str, args: dict[str, str]) -> None:
        """Have the agent journal and execute a command, and report the result to the chat."""
        self._health.commands += 1
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT):
                result = await self._agent.command(action, args, f"telegram {chat} ({sender.shown})")
        except TimeoutError:
            why = f"no result of {action} within {_COMMAND_TIMEOUT:g} s: it may still be executed"
            self._say(chat, error_text(why, "/status shows it"))
        except TapewireError as error:
            self._say(chat, error_text(f"{action}: {error.message}", error.hint))
        else:
            self._say(chat, result_text(action, result, self._agent.status()))

    async def _tell_status(self, chat: int) -> None:
        start = await self._read(lambda results, now: results.read_day_start(now))
        self._say(chat, status_text(self._agent.status(), self._agent.config.account.currency, start))

    async def _tell_trades(self, chat: int) -> None:
        def read(results: RecordedResults, now: int) -> str:
            of_day = results.read_trades(now)
            return trades_text(results, of_day, self._agent.config.account.currency)

        text = await self._read(read)
        self._say(chat, text or "⚠ the record can't be read now; try again in a moment")

    async def _read(self, read: Callable[[RecordedResults, int], T]) -> T | None:
        """Call `read` with the record in a thread; None if the store fails."""
        async with self._reading:
            if self._results is None or self._results.run_id != self._agent.run_id:
                self._results = RecordedResults(self._database, self._agent.run_id)
            results, now = self._results, self._clock.now()
            try:
                return await asyncio.to_thread(read, results, now)
            except TapewireError as error:
                self._health.failed(error, self._wall.now())
                self._results = None  # it may have read a part
                return None

    # -- replies ---------------------------------------------------------------------------------------

    def _say(self, chat: int, text: str) -> None:
        self._replies.put(Reply(chat, text))

    def _refuse(self, chat: int, error: SafetyError, *, press: str = "") -> None:
        self._health.refused += 1
        if count := self._refused.due():
            _log.warning("telegram command refused", chat=chat, reason=error.message, count=count)
        if press:
            text = f"{error.message}; {error.hint}" if error.hint else error.message
            self._replies.put(Reply(chat, one_line(text, 190), press=press, alert=True))
        else:
            self._say(chat, error_text(error.message, error.hint))

    def _note_drop(self, reason: str) -> None:
        self._health.dropped += 1
        self._health.failed(reason, self._wall.now())
        if count := self._lost.due():
            _log.warning("a reply was not sent", reason=reason, count=count)


class CommandTasks:
    """Commands that are executed at once, at most eight and kills; they end with the bot."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._running: set[asyncio.Task[Any]] = set()

    def start(
        self,
        work: Callable[[], Awaitable[None]],
        refuse: Callable[[SafetyError], None],
        *,
        always: bool = False,
    ) -> None:
        """Begin a command; with too many at once, call `refuse` instead, unless `always`."""
        if len(self._running) >= _AT_ONCE and not always:
            refuse(SafetyError(f"{_AT_ONCE} commands are being executed already"))
            return

        async def execute() -> None:
            await work()

        task = self._tasks.create_task(execute())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
