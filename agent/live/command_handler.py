"""Commands on their way through the queue: journalled, handled by the core, and answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from msgspec import to_builtins

from agent.config import Config
from agent.core.errors import (
    ModelError,
    SafetyError,
    StoreUnavailable,
    TapewireError,
    UsageError,
    did_you_mean,
)
from agent.core.events import Command, Event, RiskState
from agent.core.risk import KILL, RESUME_FROM_KILL
from agent.core.sleeves import engines_of
from agent.core.strategy_version import bars_needed, label_of
from agent.live.control_socket import COMMANDS
from agent.live.emergency_close import EmergencyReport
from agent.live.event_queue import EventQueue
from agent.live.kill_file import KillSwitch
from agent.live.kill_guard import KillGuard
from agent.live.pipeline import Pipeline
from agent.live.scoring import SentimentConsumer
from agent.live.sleeve_requests import ADD, checked_args, result_of
from agent.live.strategy_switch import HISTORY, SET, USE, StrategySwitch
from agent.system.clock import Clock, iso

_AT_ONCE: Final = ("halt", "kill")  # go ahead of everything else in the queue

_EMERGENCY: Final = 4.0  # seconds that a kill waits for the guard's report while the store can't be written
_POLL: Final = 0.05  # seconds between two checks whether the core has handled a kill
_log: Final = structlog.get_logger(__name__)


class CommandHandler:
    """Puts commands into the queue of a running agent and waits until the core has handled them.

    `guard` carries out a kill that the core can't; None if tests provide the venue's port.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        queue: EventQueue,
        clock: Clock,
        kill_switch: KillSwitch,
        model: SentimentConsumer | None,
        strategies: StrategySwitch,
    ) -> None:
        self.guard: KillGuard | None = None
        self._config = config
        self._pipeline = pipeline
        self._queue = queue
        self._clock = clock
        self._kill_switch = kill_switch
        self._model = model
        self._strategies = strategies
        self._loop = asyncio.get_running_loop()
        # by identity: events that a coroutine waits for
        self._handled: dict[int, tuple[Event, asyncio.Future[None]]] = {}
        # reports of the guard that are not in the journal yet
        self._emergencies: dict[int, tuple[EmergencyReport, asyncio.Task[None]]] = {}
        self._swap = asyncio.Lock()  # one model is loaded at a time
        # Each change begins with what the one before it left, and the core keeps bars for one at a time
        self._strategy_change = asyncio.Lock()

    async def put(
        self, action: str, args: dict[str, str] | None = None, by: str = "daemon"
    ) -> asyncio.Future[None]:
        """Put a command into the queue; the future completes once it is journalled and handled."""
        now = self._clock.now()
        command = Command(action, now, now, args or {}, by)
        handled = self._loop.create_future()
        self._handled[id(command)] = command, handled
        if action in _AT_ONCE:
            self._queue.put_first(command)
        else:
            await self._queue.put(command)
        return handled

    def settle(self, event: Event) -> None:
        """Complete the future of an event that was handled."""
        waiting = self._handled.pop(id(event), None)
        if waiting and not waiting[1].done():  # the waiting task may have been cancelled
            waiting[1].set_result(None)

    async def kill(self, args: dict[str, str], by: str) -> None:
        """Kill, and wait until the core has handled it."""
        await (await self.put("kill", args, by))

    async def heartbeat(self) -> None:
        """Give the core the time, and wait until it has handled it."""
        await (await self.put("heartbeat"))

    async def alarm(self, rule: str, detail: str, **more: str) -> None:
        """Journal an alarm, and wait until the core has handled it."""
        await (await self.put("alarm", {"rule": rule, "detail": detail, **more}))

    @property
    def killed(self) -> bool:
        """True while the account is halted by a kill."""
        risk = self._pipeline.engine.risk
        return risk.state is RiskState.HALTED and risk.rule == KILL

    async def command(self, action: str, args: dict[str, str] | None = None, by: str = "") -> dict[str, Any]:
        """Journal and handle an operator's command; return its result. Raises UsageError for an unknown
        command.

        `use-model` takes the folder in `args` and returns once the model scores; it raises ModelError if the
        old model stays. `use-strategy` takes `strategy`, `params` (JSON) and `flatten`, `set-strategy` takes
        `params`; they raise ConfigError if the old strategy stays.
        """
        if action not in COMMANDS:
            raise UsageError(f"unknown command {action!r}", hint=f"one of {', '.join(COMMANDS)}")
        args = args or {}
        if action == "use-model" and self._model is None:
            raise UsageError(f"strategy {self._pipeline.run.strategy} uses no model")
        if action == "use-model" and not args.get("folder"):
            raise UsageError("use-model needs a folder")
        if action in (USE, SET):
            return await self._change_strategy(action, args, by)
        if action == "resume":
            self._kill_switch.refuse("no resumption")
        symbols = self._config.market.symbols
        if action == "flatten" and args.get("symbol", symbols[0]) not in symbols:
            raise UsageError(
                f"{args['symbol']} is not traded",
                hint=did_you_mean(args["symbol"], symbols, f"market.symbols are {', '.join(symbols)}"),
            )
        engine = self._pipeline.engine
        risk = engine.risk
        args = checked_args(engine, self._config, action, args, reads_news=self._model is not None)
        if action == "kill" and self.guard is not None:
            emergency = await self._kill_with_guard(self.guard, args, by)
            if emergency is not None:
                return {"action": action, "risk": risk.state.value, "emergency": to_builtins(emergency)}
        elif action == ADD:
            await self._add_sleeve(args, by)
        else:
            await self._wait_until_handled(action, await self.put(action, args, by))
        if action == "resume" and self.killed:
            raise SafetyError(
                f"the agent was killed at {iso(risk.since)} ({risk.detail}): resuming from that has to be "
                "confirmed",
                hint=f'tapewire resume --confirm "{RESUME_FROM_KILL}"',
            )
        if action == "resume" and "sleeve" not in args and self.guard is not None:
            self.guard.resumed()
        result: dict[str, Any] = {
            "action": action,
            "event": self._pipeline.journal.last_seq,
            "risk": risk.state.value,
        }
        if "sleeve" in args:
            result |= result_of(engine, action, args["sleeve"])
        if action == "use-model":
            result |= await self._use_model(args["folder"], by)
        return result

    async def _kill_with_guard(
        self, guard: KillGuard, args: dict[str, str], by: str
    ) -> EmergencyReport | None:
        """Kill by the core; while the store can't be written, return what the guard did at the venue
        instead.
        """
        request = guard.request(args, by)
        handled = await self.put("kill", args, by)
        try:
            await self._wait_until_handled("kill", handled)
        except StoreUnavailable:
            if guard.emergency_exit is None:
                raise
            outcome = asyncio.shield(asyncio.wrap_future(request.outcome))
            either: set[asyncio.Future[Any]] = {outcome, handled}
            await asyncio.wait(either, timeout=_EMERGENCY, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done() or not outcome.result().done:
                raise
            return outcome.result()
        return None

    async def _wait_until_handled(self, action: str, handled: asyncio.Future[None]) -> None:
        """Wait for the core. Raises StoreUnavailable while the store can't be written; the command stays
        queued.
        """
        storage = self._pipeline.storage
        failing: asyncio.Future[Any] = asyncio.ensure_future(storage.failing.wait())
        try:
            await asyncio.wait([handled, failing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            failing.cancel()
        if not handled.done():
            raise StoreUnavailable(
                f"nothing is traded: {storage.status.error}",
                hint=f"{action} is kept, and executed as soon as the store can be written",
            )

    # -- what the guard did at the venue --------------------------------------------------------------

    def note_emergency(self, report: EmergencyReport) -> None:
        """Journal what the guard did. The guard's thread calls this."""
        with suppress(RuntimeError):  # the event loop is closed: the agent has ended
            self._loop.call_soon_threadsafe(self._take_emergency, report)

    def _take_emergency(self, report: EmergencyReport) -> None:
        self._emergencies[id(report)] = report, self._loop.create_task(self._journal_emergency(report))

    async def _journal_emergency(self, report: EmergencyReport) -> None:
        """Put the report into the queue behind the kill itself."""
        while not self.killed:
            await asyncio.sleep(_POLL)
        await self._put_emergency(report)

    async def _put_emergency(self, report: EmergencyReport) -> None:
        """Put the report into the queue, once."""
        if self._emergencies.pop(id(report), None) is None:
            return
        args = {
            "cancelled": " ".join(report.cancelled),
            "sent": "; ".join(report.closed),
            "left": "; ".join(report.left),
        }
        await self.put("emergency-kill", {name: text for name, text in args.items() if text}, report.by)

    async def put_last(self) -> None:
        """Put the guard's reports into the queue, even if their kill still waits for the store, then the
        stop.
        """
        for report, task in list(self._emergencies.values()):
            await self._put_emergency(report)
            task.cancel()
        await self.put("stop")

    # -- the strategy ---------------------------------------------------------------------------------

    async def _change_strategy(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        async with self._strategy_change:
            try:
                version, strategy = await self._strategies.prepare(action, args)
            except TapewireError as error:
                what = {"strategy": args.get("strategy", "the same"), "reason": error.message}
                if args.get("sleeve") in engines_of(self._pipeline.engine):
                    what["sleeve"] = args["sleeve"]
                if not self._pipeline.storage.failing.is_set():
                    await self._wait_until_handled(action, await self.put("strategy-refused", what, by))
                raise type(error)(f"{error.message}; the old strategy stays", hint=error.hint) from None
            if self._strategies.lacks_bars(version):
                # From here on the core keeps the run's bars, so that none is missing after those read
                keep = {name: text for name, text in version.items() if name == "sleeve"}
                await self._wait_until_handled(action, await self.put(HISTORY, keep, by))
                for past in await self._strategies.read_past(version):
                    await self._queue.put(past)
            self._pipeline.versions.prepare(version, strategy)
            await self._wait_until_handled(action, await self.put(USE, version, by))
        engine = self._pipeline.engine
        sleeve = version.get("sleeve", "")
        own = engines_of(engine).get(sleeve)  # None if the sleeve has been removed since
        return {
            "action": action,
            "event": self._pipeline.journal.last_seq,
            "risk": engine.risk.state.value,
            **(result_of(engine, action, sleeve) if sleeve else {}),
            "strategy": label_of(version["strategy"], version["class"]),
            "source": version["sha256"],
            "params": msgspec.json.decode(version["params"]),
            "short": [] if own is None else own.short_histories(bars_needed(version)),
        }

    async def _add_sleeve(self, args: dict[str, str], by: str) -> None:
        """Add a sleeve with the history that it would have if the agent started now."""
        async with self._strategy_change:
            args = await self._strategies.prepare_sleeve(args)
            # From here on the core keeps the run's bars, so that none is missing after those read
            await self._wait_until_handled(ADD, await self.put(HISTORY, {}, by))
            for past in await self._strategies.read_history(args):
                await self._queue.put(past)
            await self._wait_until_handled(ADD, await self.put(ADD, args, by))

    # -- the model ------------------------------------------------------------------------------------

    async def _use_model(self, folder: str, by: str) -> dict[str, str]:
        if self._model is None:
            return {}
        async with self._swap:
            try:
                model = await self._model.use(folder)
            except TapewireError as error:
                await (await self.put("model-refused", {"folder": folder, "reason": error.message}, by))
                raise ModelError(f"{error.message}; the old model stays", hint=error.hint) from None
            await (await self.put("model-in-use", {"folder": folder, "model": model, "chosen": folder}, by))
        return {"model": model, "folder": folder}

    async def settle_model(self, loaded: str) -> None:
        """Journal which model scores from now on: the configured one, or the one chosen in an earlier
        life of the run.
        """
        model, folder, chosen = self._model, self._config.model.path, self._pipeline.memory.model
        if model is not None and chosen:
            try:
                loaded = await model.use(chosen)
                folder = chosen
            except TapewireError as error:
                _log.warning(
                    "the model chosen before can't be loaded",
                    folder=chosen,
                    reason=error.message,
                    instead=folder,
                )
        args = {"folder": folder, "model": loaded}
        await self.put("model-in-use", args | {"chosen": folder} if folder == chosen else args)
