"""Commands by chat to a real agent at the sandbox, through a loopback server that speaks the Bot API."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from agent.analysis.trades import RoundTrip, round_trips
from agent.cli.status_output import show as show_status
from agent.core.errors import ConfigError, SafetyError
from agent.core.events import DAY_MS, Command, Fill, FundingPayment, RiskState
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.services.metrics.prometheus import AgentMetrics
from agent.live.services.telegram.bot_api import TOKEN as VARIABLE
from agent.live.services.telegram.bot_api import bot_token
from agent.live.services.telegram.telegram_bot import TelegramBot, TelegramHealth
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import read_frame, read_numbered
from tests.live.conftest import database, quiet_log, sandbox
from tests.support.live import handled, journal, living, load_words, settings, until
from tests.support.telegram_server import BOT, TOKEN, Fault, TelegramServer

__all__ = ["database", "quiet_log", "sandbox"]

CHAT, OTHER, STRANGER, GROUP = 1001, 1002, 666, -100_123
FAST = {"first": "10ms", "ceiling": "50ms"}


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TelegramServer]:
    monkeypatch.setenv(VARIABLE, TOKEN)
    async with TelegramServer() as running:
        yield running


def agent_of(
    sandbox: Sandbox, database: Database, folder: Path, server: TelegramServer, **more: Any
) -> Daemon:
    telegram = {
        "chats": [CHAT, OTHER, GROUP],
        "endpoint": server.url,
        "poll": "2s",
        "timeout": "5s",
        "reconnect": FAST,
    }
    config = settings(sandbox.rest_url, folder, telegram=telegram | more)
    return make_agent(config, database, load_model=load_words, clock=sandbox.clock)


@asynccontextmanager
async def commanded(daemon: Daemon) -> AsyncIterator[TelegramHealth]:
    """Run the agent; messages written from now on have a time after its start."""
    async with living(daemon):
        health = bot_of(daemon).health
        await until(lambda: health.state == "live")
        await asyncio.sleep(1.01)  # times of messages are whole seconds
        yield health


def bot_of(daemon: Daemon) -> TelegramBot:
    return next(one for one in daemon.services.companions if isinstance(one, TelegramBot))


def commands(database: Database) -> list[Command]:
    """The journalled commands of people."""
    own = ("daemon", "")
    return [one for one in journal(database) if isinstance(one, Command) and one.by not in own]


async def reply(server: TelegramServer, chat: int, ask: Callable[[], object]) -> str:
    """Return the next text that a chat receives after `ask`."""
    before = len(server.texts(chat))
    ask()
    await until(lambda: len(server.texts(chat)) > before)
    return server.texts(chat)[before]


def plain(text: str) -> str:
    """Replace the typographic minus and spaces of figures."""
    return text.replace("−", "-").replace("\u00a0", " ")


def holds(daemon: Daemon) -> bool:
    return any(one.qty for one in daemon.status().positions)


@pytest.mark.slow
async def test_a_chat_watches_pauses_resumes_flattens_and_kills(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        await until(lambda: handled(daemon) > 20)
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/status"))
        assert daemon.run_id in text
        assert "risk ACTIVE" in text
        assert "health: ok" in text or "⚠" in text
        found = re.search(r"equity ([\d,.]+) USDT \(([+-]?[\d,.]+) today", plain(text))
        assert found
        equity, change = (float(one.replace(",", "")) for one in found.groups())
        frame = read_frame(database, daemon.run_id, "equity")
        midnight = daemon.status().now // DAY_MS * DAY_MS
        assert equity - change == pytest.approx(frame[frame.ts >= midnight].equity.iloc[0], abs=0.011)

        text = await reply(server, CHAT, lambda: server.write(CHAT, "/pause"))
        assert "pause: done; risk is REDUCING" in text
        assert daemon.status().risk is RiskState.REDUCING
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/resume@" + BOT))
        assert "risk is ACTIVE" in text

        await until(lambda: holds(daemon))
        question = await reply(server, CHAT, lambda: server.write(CHAT, "/flatten"))
        assert "Close all positions" in question
        assert not [one for one in commands(database) if one.action == "flatten"]
        press = server.press(server.buttons(CHAT)["✔ Flatten"], CHAT)
        await until(lambda: any("flatten: done" in one for one in server.texts(CHAT)))
        await until(lambda: press in server.answers)
        assert server.answers[press] == ("flatten is executed", False)

        question = await reply(server, CHAT, lambda: server.write(CHAT, "/kill flatten"))
        assert "including stops" in question
        assert daemon.status().risk is RiskState.ACTIVE
        server.press(server.buttons(CHAT)["✔ Kill and close positions"], CHAT)
        await until(lambda: any("kill: done; risk is HALTED" in one for one in server.texts(CHAT)))
        assert daemon.status().risk_rule == "kill"
        await until(lambda: not holds(daemon))

        text = await reply(server, CHAT, lambda: server.write(CHAT, "/resume"))
        assert "/resume resume from kill" in text
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/resume please"))
        assert "/resume resume from kill" in text
        assert daemon.status().risk is RiskState.HALTED
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/resume resume from kill"))
        assert "risk is ACTIVE" in text
        assert health.commands == 5
    journalled = [(one.action, one.args, one.by) for one in commands(database)]
    by = f"telegram {CHAT} (ann)"
    assert journalled == [
        ("pause", {}, by),
        ("resume", {}, by),
        ("flatten", {}, by),
        ("kill", {"flatten": "true"}, by),
        ("resume", {"confirm": "resume from kill"}, by),
    ]


@pytest.mark.slow
async def test_trades_are_those_of_the_record(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    """The text has the last round trips and the day's sum, computed here from all fills at once."""
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon):
        first = await reply(server, CHAT, lambda: server.write(CHAT, "/trades"))
        assert "today (UTC)" in first
        await until(lambda: len(closed_of(database, daemon.run_id)) >= 3)
        await daemon.command("kill", {"flatten": "true"}, "test")
        await until(lambda: all(one.exit_ts for one in trades_of(database, daemon.run_id)))  # it is recorded
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/trades"))
        closed = closed_of(database, daemon.run_id)
    day = max(one.exit_ts or 0 for one in closed) // 86_400_000
    of_day = [one for one in closed if (one.exit_ts or 0) // 86_400_000 == day]
    profit = sum((one.pnl for one in of_day), Decimal(0))
    lines = plain(text).splitlines()
    assert lines[0] == (
        f"today (UTC) {len(of_day)} closed, {sum(one.pnl > 0 for one in of_day)} won, {profit:+,.2f} USDT"
    )
    assert lines[1] == f"the last {min(len(closed), 10)} of {len(closed)}:"
    assert len(lines) == 2 + min(len(closed), 10)
    latest = closed[-1]
    assert f" {latest.symbol} " in lines[2]
    assert f" {latest.pnl:+,.2f} " in lines[2]


def trades_of(database: Database, run: str) -> list[RoundTrip]:
    moves = [one.decision for one in read_numbered(database, run, (Fill, FundingPayment))]
    return round_trips(one for one in moves if isinstance(one, Fill | FundingPayment))


def closed_of(database: Database, run: str) -> list[RoundTrip]:
    return [one for one in trades_of(database, run) if one.exit_ts is not None]


@pytest.mark.slow
async def test_a_chat_that_is_not_listed_is_ignored_and_counted(
    server: TelegramServer,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        for text in ("/status", "/kill", "hello"):
            server.write(STRANGER, text, user="eve")
        await reply(server, CHAT, lambda: server.write(CHAT, "/flatten"))
        server.press(server.buttons(CHAT)["✔ Flatten"], STRANGER, user="eve")
        await until(lambda: health.ignored == 4)
        assert health.last_ignored == STRANGER
        await until(lambda: server.unconfirmed == 0)
        row = next(one for one in daemon.status().producers if one["name"] == "telegram")
        assert row["ignored"] == 4
        show_status(daemon.status())
        line = f"4 messages ignored, the last of chat {STRANGER}, which telegram.chats doesn't list"
        assert f"telegram: bot {BOT}, 0 commands, {line}" in capsys.readouterr().out
        scraped = generate_latest(AgentMetrics(daemon).registry()).decode()
        assert 'tapewire_source_ignored_total{source="telegram"} 4.0' in scraped
    assert server.texts(STRANGER) == []
    assert server.answers == {}
    assert commands(database) == []


async def test_a_command_that_is_too_old_is_answered_and_not_executed(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    """Commands that waited while the agent was down: older than `max_age`, or sent before the start."""
    server.write(CHAT, "/kill", age=3_600)
    server.write(CHAT, "/pause", age=2)
    server.write(OTHER, "chatting <about> it", age=3_600)
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        await until(lambda: server.texts(CHAT))
        assert "/kill (sent 1 h ago)" in server.texts(CHAT)[0].replace("\u00a0", " ")
        assert "/pause (sent before the agent started)" in server.texts(CHAT)[0]
        server.write(CHAT, "/pause", age=120)
        server.write(CHAT, "/pause", age=-300)
        await until(lambda: health.refused == 4)
        await until(lambda: any("ahead of this machine's clock" in one for one in server.texts(CHAT)))
        assert server.texts(OTHER) == []
        assert daemon.status().risk is RiskState.ACTIVE
    assert commands(database) == []


@pytest.mark.slow
async def test_an_update_that_is_delivered_again_is_executed_once(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon):
        update = server.write(CHAT, "/pause")
        await until(lambda: server.texts(CHAT))
        await until(lambda: server.unconfirmed == 0)
        server.deliver(update)
        await until(lambda: server.unconfirmed == 0)
        server.renumber(4_000)  # a lower number, as after a quiet week
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/resume"))
        assert "ACTIVE" in text
    assert [one.action for one in commands(database)] == ["pause", "resume"]


CHEATS = [
    ("in another chat", {"chat": OTHER}),
    ("by another member of the group", {"user": "eve"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "press"), CHEATS, ids=[case for case, _ in CHEATS])
async def test_a_confirmation_counts_only_for_its_chat_and_sender(
    server: TelegramServer,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    case: str,
    press: dict[str, Any],
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        await reply(server, GROUP, lambda: server.write(GROUP, f"/kill@{BOT}"))
        data = server.buttons(GROUP)["✔ Kill"]
        wrong = server.press(data, **({"chat": GROUP} | press))
        await until(lambda: wrong in server.answers)
        assert "only the sender" in server.answers[wrong][0]
        assert health.refused == 1
        assert commands(database) == []
        right = server.press(data, GROUP)  # the cheat has not used it up
        await until(lambda: right in server.answers)
        await until(lambda: daemon.status().risk is RiskState.HALTED)
        again = server.press(data, GROUP)
        await until(lambda: again in server.answers)
        assert "was used" in server.answers[again][0]
    assert [(one.action, one.by) for one in commands(database)] == [("kill", f"telegram {GROUP} (ann)")]


@pytest.mark.slow
async def test_a_confirmation_expires_and_can_be_withdrawn(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server, confirm_within="1s")
    async with commanded(daemon):
        await reply(server, CHAT, lambda: server.write(CHAT, "/kill"))
        data = server.buttons(CHAT)
        await asyncio.sleep(1.1)
        late = server.press(data["✔ Kill"], CHAT)
        await until(lambda: late in server.answers)
        assert "later than 1 s" in server.answers[late][0]
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon):
        await reply(server, CHAT, lambda: server.write(CHAT, "/kill"))
        data = server.buttons(CHAT)
        server.press(data["Cancel"], CHAT)
        late = server.press(data["✔ Kill"], CHAT)
        await until(lambda: late in server.answers)
        assert "withdrawn" in server.answers[late][0]
        await reply(server, CHAT, lambda: server.write(CHAT, "/kill"))
        earlier = server.buttons(CHAT)["✔ Kill"]
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon):  # a restart forgets confirmations
        late = server.press(earlier, CHAT)
        await until(lambda: late in server.answers)
        assert "send the command again" in server.answers[late][0]
    assert commands(database) == []


UNKNOWN = [
    ("/buy 1 BTC", "/buy is not a command; /help lists them"),
    ("/<b>", "/<b> is not a command; /help lists them"),
    ("/help", "Tapewire"),
    ("/start", "Tapewire"),
    ("hello", "/help lists the commands"),
    ("/kill everything", "/kill everything: only /kill flatten has an argument"),
]


@pytest.mark.slow
async def test_what_is_not_a_command_is_answered_in_a_private_chat(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        for written, expected in UNKNOWN:
            text = await reply(server, CHAT, partial(server.write, CHAT, written))
            assert text.startswith(expected)
        text = await reply(
            server, CHAT, lambda: server.write(CHAT, "/pause", forward_origin={"type": "user"})
        )
        assert "forwarded" in text
        server.write(GROUP, "hello")
        server.write(GROUP, "/pause@another_bot")
        await until(lambda: server.unconfirmed == 0)
        await until(lambda: health.messages == len(UNKNOWN) + 3)
        assert server.texts(GROUP) == []
    assert commands(database) == []


@pytest.mark.slow
async def test_a_chat_that_sends_too_many_commands_is_told_once_and_can_still_kill(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server, commands_per_minute=3)
    async with commanded(daemon) as health:
        for _ in range(10):
            server.write(CHAT, "/help")
        await until(lambda: health.refused == 7)
        server.write(CHAT, "/kill")
        await until(lambda: server.buttons(CHAT))
        told = [one for one in server.texts(CHAT) if "more than 3 commands a minute" in one]
        assert len(told) == 1
        assert "HALTED" not in (await reply(server, OTHER, lambda: server.write(OTHER, "/status")))


FAULTS = [
    ("a gateway that is down", Fault(502, "<html>Bad Gateway</html>"), "no answer of the Bot API"),
    ("broken JSON", Fault(200, '{"ok": true, "result": [{"upd'), "no answer of the Bot API"),
    ("another result", Fault(200, '{"ok": true, "result": {"a": 1}}'), "another result"),
    ("flood control", Fault(429, retry_after=1, description="Too Many Requests: retry after 1"), "Too Many"),
    ("a wrong token", Fault(401, description="Unauthorized"), "copy it from @BotFather"),
    ("a webhook", Fault(409, description="Conflict: can't use getUpdates method"), "a bot of its own"),
    ("a huge answer", Fault(200, " " * 5_000_000), "more than"),
    ("a hanging server", Fault(seconds=2.2), "no response within"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "fault", "noted"), FAULTS, ids=[case for case, _, _ in FAULTS])
async def test_faults_are_noted_and_survived(
    server: TelegramServer,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    case: str,
    fault: Fault,
    noted: str,
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server, poll="1s", timeout="1s")
    server.faults["getUpdates"] += [fault] * 2
    async with living(daemon):
        health = bot_of(daemon).health
        await until(lambda: health.errors >= 2)
        assert noted in health.last_error
        assert TOKEN not in health.last_error
        await until(lambda: health.state == "live")
        await asyncio.sleep(1.01)
        polls = [at for method, _, at in server.calls if method == "getUpdates"]
        waits = [after - before for before, after in itertools.pairwise(polls)]
        if fault.retry_after:
            assert all(wait >= 1 for wait in waits[:2])
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/status"))
        assert "equity" in text
        row = next(one for one in daemon.status().producers if one["name"] == "telegram")
        assert row["failures"] == 0  # it was never restarted


@pytest.mark.slow
async def test_a_reply_waits_for_flood_control_and_is_sent_once(
    server: TelegramServer, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health:
        server.faults["sendMessage"] += [
            Fault(429, retry_after=1, description="Too Many Requests: retry after 1"),
            Fault(502, "<html>"),
        ]
        text = await reply(server, CHAT, lambda: server.write(CHAT, "/pause"))
        assert "pause: done" in text
        sends = [at for method, _, at in server.calls if method == "sendMessage"]
        assert sends[1] - sends[0] >= 1
        server.faults["sendMessage"].append(Fault(403, description="Forbidden: bot was blocked by the user"))
        server.write(CHAT, "/help")
        await until(lambda: health.dropped == 1)
        assert "blocked" in health.last_error
        assert "risk" in await reply(server, CHAT, lambda: server.write(CHAT, "/status"))
    assert sum("pause: done" in one for one in server.texts(CHAT)) == 1


@pytest.mark.slow
async def test_another_poller_is_noted_once_and_the_agent_trades_on(
    server: TelegramServer,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import aiohttp

    from agent.config.live import LogConfig
    from agent.live.log import configure

    configure(LogConfig(format="json", level="warning"))
    daemon = agent_of(sandbox, database, tmp_path, server)
    async with commanded(daemon) as health, aiohttp.ClientSession() as session:
        before = handled(daemon)
        polls = asyncio.create_task(poll_too(session, server))
        await until(lambda: health.errors >= 4)
        polls.cancel()
        await asyncio.wait({polls})
        assert "another program reads this bot's messages" in health.last_error
        await until(lambda: handled(daemon) > before + 5)
        await until(lambda: health.state == "live")
        assert "risk" in await reply(server, CHAT, lambda: server.write(CHAT, "/status"))
    logged = "".join(capfd.readouterr())
    assert logged.count("another program reads this bot's messages") == 1
    assert TOKEN not in logged


async def poll_too(session: Any, server: TelegramServer) -> None:
    while True:
        async with session.post(f"{server.url}/bot{TOKEN}/getUpdates", json={"timeout": 1}):
            await asyncio.sleep(0.05)


async def test_the_agent_starts_and_stops_without_telegram_and_no_text_has_the_token(
    server: TelegramServer,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from agent.config.live import LogConfig
    from agent.live.log import configure

    configure(LogConfig(format="json", level="debug"))
    daemon = agent_of(sandbox, database, tmp_path, server, endpoint="http://127.0.0.1:9")
    async with living(daemon):
        health = bot_of(daemon).health
        await until(lambda: health.errors >= 3 and handled(daemon) > 20)
        assert health.state == "waiting"
        shown = str(daemon.config) + str(daemon.status()) + repr(bot_of(daemon)) + health.last_error
    logged = "".join(capfd.readouterr())
    assert logged.count("telegram can't be read") == 1
    secret = TOKEN.partition(":")[2]
    assert secret not in shown
    assert secret not in logged
    assert secret.encode() not in (tmp_path / "store.db").read_bytes()


def test_the_token_is_read_from_a_private_file_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.config.services import TelegramConfig

    monkeypatch.delenv(VARIABLE, raising=False)
    assert bot_token(TelegramConfig()) is None
    file = tmp_path / "telegram.token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    found = bot_token(TelegramConfig(token_file=file))
    assert found is not None
    assert found.reveal() == TOKEN
    file.chmod(0o640)
    with pytest.raises(SafetyError, match="0640"):
        bot_token(TelegramConfig(token_file=file))
    monkeypatch.setenv(VARIABLE, "../../etc/passwd")
    with pytest.raises(ConfigError, match="form 123456:ABC") as error:
        bot_token(TelegramConfig())
    assert "passwd" not in str(error.value)


async def test_chats_without_a_token_are_refused(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    config = settings(sandbox.rest_url, tmp_path, telegram={"chats": [CHAT]})
    with pytest.raises(ConfigError, match="no token"):
        make_agent(config, database, load_model=load_words, clock=sandbox.clock)


@pytest.mark.parametrize(
    "endpoint",
    ["http://api.telegram.org", "ftp://127.0.0.1", "https://user:secret@api.telegram.org", "https://", "api"],
)
def test_a_token_is_sent_by_https_or_to_this_machine_only(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="Bot API"):
        settings("http://127.0.0.1:1", tmp_path, telegram={"endpoint": endpoint})
