"""Several agents on one page: real agents at a sandbox, asked through their REST APIs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession, web

from agent.api.api_messages import Scope
from agent.api.api_tokens import TokenRegistry
from agent.cli.dashboard_commands import serve_dashboard
from agent.config import parse
from agent.config.services import DashboardConfig, RemoteAgentConfig
from agent.core.errors import ConfigError, SafetyError
from agent.core.events import DAY_MS, Command, RiskState
from agent.dashboard.remote_agents import AgentRow, CurrencyTotal, RemoteAgents, agent_token, totals_of
from agent.dashboard.server import API_TOKENS, Dashboard
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import read_frame
from agent.system.secret import write_private
from tests.dashboard.browser_page import PHONE, BrowserPage
from tests.dashboard.dashboard_harness import client, origin
from tests.live.conftest import database, quiet_log, sandbox
from tests.support.live import handled, journal, living, load_words, settings, until

__all__ = ["database", "quiet_log", "sandbox"]


class Remote(NamedTuple):
    """An agent with its page, and the configuration by which another page finds it."""

    daemon: Daemon
    page: Dashboard
    config: dict[str, Any]
    token: str
    database: Database


@asynccontextmanager
async def remote(
    name: str, sandbox: Sandbox, folder: Path, *scopes: str, port: int = 0, **api: Any
) -> AsyncIterator[Remote]:
    """Run an agent in a folder of its own; another start in this folder resumes its run."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.token"
    config = settings(sandbox.rest_url, folder, dashboard={"port": port}, api=api)
    with closing(open_database(config.store.url)) as store:
        daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
        async with serve_dashboard(config, store, daemon) as page, living(daemon):
            assert page is not None
            if not file.exists():
                registry = TokenRegistry(folder / API_TOKENS)
                token = registry.add("fleet", [Scope(one) for one in scopes or ("read",)], 0, None)
                write_private(file, token)
            await until(lambda: handled(daemon) > 5)
            found = {"name": name, "url": page.url.rstrip("/"), "token_file": str(file)}
            yield Remote(daemon, page, found, file.read_text(), store)


@asynccontextmanager
async def fleet(
    database: Database, *configs: dict[str, Any]
) -> AsyncIterator[tuple[Dashboard, ClientSession]]:
    """Serve a page without an agent of its own that shows these agents."""
    agents = [RemoteAgentConfig.model_validate(one) for one in configs]
    config = DashboardConfig.model_validate({"port": 0, "agents_every": 200})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "dashboard.token"
        async with (
            Dashboard(config, database, agents=agents, token_file=file) as page,
            client(page.login_url()) as http,
        ):
            yield page, http


async def listing(http: ClientSession) -> dict[str, Any]:
    async with http.get("/api/agents") as response:
        assert response.status == 200
        return dict(await response.json())


async def row_of(http: ClientSession, name: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the row of an agent has these values, and return it."""
    async with asyncio.timeout(120):
        while True:
            row = next(one for one in (await listing(http))["agents"] if one["name"] == name)
            if all(row[key] == value for key, value in wanted.items()):
                return dict(row)
            await asyncio.sleep(0.05)


async def send(
    http: ClientSession, page: Dashboard, agent: str, **command: Any
) -> tuple[int, dict[str, Any]]:
    body = {"agent": agent, "command": command}
    async with http.post("/api/agents/command", json=body, headers=origin(page)) as response:
        return response.status, await response.json()


async def test_two_agents_are_shown_summed_and_commanded_where_it_is_allowed(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with (
        remote("first one", sandbox, tmp_path / "a", "read", "command", commands=True) as first,
        remote("second", sandbox, tmp_path / "b", "read") as second,
        fleet(database, first.config, second.config) as (page, http),
    ):
        await row_of(http, "first one", reachable=True)
        await row_of(http, "second", reachable=True)
        shown = await listing(http)
        for known, row in zip((first, second), shown["agents"], strict=True):
            status = known.daemon.status()
            assert (row["run"], row["strategy"]) == (status.run, "sma_cross")
            assert (row["risk"], row["currency"]) == ("ACTIVE", "USDT")
            assert row["equity"] == pytest.approx(status.equity, rel=0.05)
            assert row["version"]
            frame = read_frame(known.database, status.run, "equity")
            midnight = status.now // DAY_MS * DAY_MS
            first_sample = frame[frame.ts >= midnight].equity.iloc[0]
            assert row["equity"] - row["day_change"] == pytest.approx(first_sample)
        total = shown["totals"][0]
        rows = shown["agents"]
        assert total["agents"] == total["of"] == 2
        assert total["equity"] == pytest.approx(rows[0]["equity"] + rows[1]["equity"])
        assert first.token not in str(shown)

        # a token without the scope
        assert (rows[1]["commands"], rows[1]["no_commands"]) == (False, "the token has no scope command")
        status_code, answer = await send(http, page, "second", action="kill", run=rows[1]["run"])
        assert status_code == 403
        assert "no scope command" in answer["error"]
        assert second.daemon.status().risk is RiskState.ACTIVE

        # another run than the one that is running, and none at all
        status_code, answer = await send(
            http, page, "first one", action="pause", run="20200101-000000-aaaaaaaa"
        )
        assert status_code == 404
        assert "is not running" in answer["error"]
        status_code, answer = await send(http, page, "first one", action="pause")
        assert "names no run" in answer["error"]
        for action in ("use-strategy", "halt", "set-strategy"):
            status_code, answer = await send(http, page, "first one", action=action, run=rows[0]["run"])
            assert status_code == 404

        run = rows[0]["run"]
        assert await send(http, page, "first one", action="pause", run=run) == (
            200,
            {"action": "pause", "risk": "REDUCING"},
        )
        await row_of(http, "first one", risk="REDUCING")
        status_code, answer = await send(http, page, "first one", action="kill", run=run, flatten=True)
        assert answer["risk"] == "HALTED"
        row = await row_of(http, "first one", risk="HALTED", positions=[])
        assert row["killed"]
        status_code, answer = await send(http, page, "first one", action="resume", run=run)
        assert status_code == 403
        assert "confirmed" in answer["error"]
        phrase = "resume from kill"
        status_code, answer = await send(http, page, "first one", action="resume", run=run, confirm=phrase)
        assert (status_code, answer["risk"]) == (200, "ACTIVE")
        own = [
            one for one in journal(first.database) if isinstance(one, Command) and one.by.startswith("api")
        ]
    assert [(one.action, one.by) for one in own] == [
        (action, "api fleet") for action in ("pause", "kill", "resume", "resume")
    ]
    assert own[1].args == {"flatten": "true", "reason": "from the page of 127.0.0.1"}


async def test_an_agent_that_goes_away_is_shown_with_its_last_figures_and_comes_back(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        async with remote("a", sandbox, tmp_path / "a", "read", "command", commands=True) as known:
            page, http = await stack.enter_async_context(fleet(database, known.config))
            before = await row_of(http, "a", reachable=True)
            port = known.page.port
        gone = await row_of(http, "a", reachable=False)
        assert gone["since"] >= before["answered_at"]
        assert gone["why"]
        assert gone["equity"] is not None
        total = (await listing(http))["totals"][0]
        assert (total["agents"], total["of"], total["equity"]) == (0, 1, 0.0)
        status, answer = await send(http, page, "a", action="pause", run=before["run"])
        assert status == 403
        assert "takes no commands" in answer["error"]
        still = await row_of(http, "a", reachable=False)
        assert still["since"] == gone["since"]
        async with remote("a", sandbox, tmp_path / "a", port=port, commands=True) as again:
            assert again.page.port == port
            back = await row_of(http, "a", reachable=True)
            assert back["since"] > gone["since"]
            assert back["run"] == before["run"]
            assert back["commands"]


@asynccontextmanager
async def other_server(handler: Any) -> AsyncIterator[str]:
    """Serve one handler for all paths."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.slow
async def test_servers_that_fail_are_explained_and_do_not_hold_up_the_others(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    reached: list[str] = []

    async def stall(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{target}/elsewhere")

    async def note(request: web.Request) -> web.Response:
        reached.append(request.headers.get("Authorization", ""))
        return web.Response(text="<html>It works!</html>")

    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=b" " * 5_000_000)

    secret = "tw_secret_token_of_the_fleet"
    async with (
        remote("sound", sandbox, tmp_path / "a") as known,
        other_server(note) as target,
        other_server(stall) as slow,
        other_server(redirect) as moved,
        other_server(flood) as endless,
    ):
        write_private(tmp_path / "token", secret)
        file = str(tmp_path / "token")
        urls = {"slow": slow, "moved": moved, "endless": endless, "wrong": known.config["url"]}
        urls["nobody"] = "http://127.0.0.1:9"
        others = [{"name": name, "url": url, "token_file": file} for name, url in urls.items()]
        async with fleet(database, *others, known.config) as (_, http):
            await row_of(http, "sound", reachable=True)
            answers = (await row_of(http, "sound"))["answered_at"]
            expected = {
                "slow": "no answer within 5 s",
                "moved": "redirects are not followed",
                "endless": "more than 4,000,000 bytes",
                "wrong": "unknown, revoked or expired",
                "nobody": "no connection: Connection refused",
            }
            for name, why in expected.items():
                row = await row_of(http, name, reachable=False)
                async with asyncio.timeout(60):
                    while why not in (row := await row_of(http, name))["why"]:
                        await asyncio.sleep(0.05)
                assert row["since"]
            async with asyncio.timeout(60):
                while (await row_of(http, "sound", reachable=True))["answered_at"] == answers:
                    await asyncio.sleep(0.05)
            assert secret not in str(await listing(http))
    assert reached == []


def with_first(rows: list[dict[str, Any]], **changed: Any) -> list[dict[str, Any]]:
    return [rows[0] | changed, *rows[1:]]


SENSELESS_ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "signalling": lambda state: {"positions": with_first(state["positions"], qty="sNaN")},
    "infinite": lambda state: {"positions": with_first(state["positions"], qty="1E+400")},
    "summed up": lambda state: {"positions": [state["positions"][0] | {"value": 1e308}] * 9},
    "countless": lambda state: {"positions": with_first(state["positions"], open_orders=10**4_000)},
    "long run": lambda state: {"run": "x" * 1_000_000},
    "other keys": lambda state: {"producers": [{"called": "wire"}]},
}


@pytest.mark.slow
async def test_an_answer_without_sense_makes_that_agent_unreachable_until_it_has_sense(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    changes = dict(SENSELESS_ANSWERS)
    async with remote("sound", sandbox, tmp_path / "a") as known, AsyncExitStack() as stack:
        programs = await stack.enter_async_context(
            ClientSession(headers={"Authorization": f"Bearer {known.token}"})
        )

        async def serve(name: str) -> dict[str, Any]:
            async def answer(request: web.Request) -> web.Response:
                async with programs.get(known.config["url"] + request.raw_path) as response:
                    found = await response.json()
                if request.path.endswith("/state") and name in changes:
                    found |= changes[name](found)
                return web.json_response(found, status=response.status)

            url = await stack.enter_async_context(other_server(answer))
            return known.config | {"name": name, "url": url}

        configs = [await serve(name) for name in SENSELESS_ANSWERS]
        _, http = await stack.enter_async_context(fleet(database, known.config, *configs))
        await row_of(http, "sound", reachable=True)
        for name in SENSELESS_ANSWERS:
            async with asyncio.timeout(60):
                while not (row := await row_of(http, name, reachable=False))["why"]:
                    await asyncio.sleep(0.05)
            assert "is not that of this version's API" in row["why"], name
            assert len(row["run"]) < 100
        (total,) = (await listing(http))["totals"]
        assert (total["agents"], total["of"]) == (1, 1)
        changes.clear()
        for name in SENSELESS_ANSWERS:
            await row_of(http, name, reachable=True)


def test_totals_are_sums_over_those_that_can_be_reached() -> None:
    def agent(name: str, currency: str, equity: float, change: float | None, *, up: bool = True) -> AgentRow:
        return AgentRow(
            name=name,
            url="",
            reachable=up,
            currency=currency,
            equity=equity,
            day_change=change,
            exposure=equity / 2,
        )

    rows = [
        agent("a", "USDT", 100.0, 5.0),
        agent("b", "USDT", 200.0, -2.0),
        agent("c", "USDT", 1_000.0, 50.0, up=False),
        agent("d", "USD", 10.0, None),
        AgentRow(name="e", url=""),
    ]
    assert totals_of(rows) == [
        CurrencyTotal("USD", 1, 1, 10.0, None, 5.0),
        CurrencyTotal("USDT", 2, 3, 300.0, 3.0, 150.0),
    ]


WRONG_ADDRESSES = [
    ("http://bot.example.org", "without encryption"),
    ("ftp://bot.example.org", "a server is"),
    ("https://ann:secret@bot.example.org", "a server is"),
    ("https://bot.example.org/?token=secret", "a server is"),
    ("bot.example.org", "a server is"),
]


@pytest.mark.parametrize(("url", "why"), WRONG_ADDRESSES)
def test_a_token_is_sent_encrypted_or_on_this_machine_only(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse({"agents": [{"name": "a", "url": url}]}, where="test")
    parse({"agents": [{"name": "a", "url": "http://bot.example.org", "allow_plain": True}]}, where="test")


def test_each_agent_needs_a_name_and_a_private_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"name": "my bot", "url": "http://127.0.0.1:1"}
    with pytest.raises(ConfigError, match="no token for 'my bot'") as error:
        agent_token(RemoteAgentConfig.model_validate(here))
    assert "TAPEWIRE_AGENT_TOKEN_MY_BOT" in error.value.hint
    monkeypatch.setenv("TAPEWIRE_AGENT_TOKEN_MY_BOT", "abc")
    config = RemoteAgentConfig.model_validate(here)
    assert agent_token(config).reveal() == "abc"
    with pytest.raises(ConfigError, match="occurs twice"):
        RemoteAgents([config, config], 5.0)
    monkeypatch.delenv("TAPEWIRE_AGENT_TOKEN_MY_BOT")
    (tmp_path / "token").write_text("abc")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(SafetyError, match="0644"):
        agent_token(RemoteAgentConfig.model_validate(here | {"token_file": tmp_path / "token"}))


@pytest.mark.slow
async def test_the_page_shows_agents_and_asks_before_a_command_at_any_width(
    page: BrowserPage, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    write_private(tmp_path / "token", "abc")
    away = {"name": "away", "url": "http://127.0.0.1:9", "token_file": str(tmp_path / "token")}
    async with (
        remote("first one", sandbox, tmp_path / "a", "read", "command", commands=True) as first,
        remote("second", sandbox, tmp_path / "b") as second,
        fleet(database, first.config, second.config, away) as (server, _),
    ):
        await page.open(server.login_url())
        await page.until("location.search === ''")
        await page.click("#to-agents")
        await page.until("document.querySelectorAll('#agent-table tbody tr').length === 3")
        await page.until("document.querySelectorAll('#agent-table .pill.active').length === 2")
        await page.until("document.querySelectorAll('#agent-table .pill.lost').length === 1")
        assert "USDT" in await page.text("#agent-totals dt")
        assert "the token has no scope command" in await page.text("[data-name='second']")
        assert await page.run("return document.querySelectorAll('[data-name=second] button').length") == 0
        await shot(page, "agents-desktop.png")

        await page.click("[data-agent='first one'][data-action='kill']")
        await page.until("document.querySelector('#agent-confirm').open")
        assert "first one" in await page.text("#agent-confirm-title")
        assert first.daemon.run_id in await page.text("#agent-confirm-text")
        assert first.daemon.status().risk is RiskState.ACTIVE
        await shot(page, "agents-dialog.png")
        await page.click("#agent-confirm-yes")
        await page.until("!document.querySelector('#agent-confirm').open")
        assert first.daemon.status().risk_rule == "kill"
        await page.until("document.querySelector(\"[data-name='first one'] .pill.halted\") !== null")
        await page.click("[data-agent='first one'][data-action='resume']")
        await page.type("#agent-confirm-typed", "resume")
        await page.click("#agent-confirm-yes")
        await page.until("!document.querySelector('#agent-confirm-error').hidden")
        assert "confirmed" in await page.text("#agent-confirm-error")
        assert second.daemon.status().risk is RiskState.ACTIVE
        errors = [one for one in await page.console_errors() if "403" not in one]  # of the refused resume
        assert errors == []

        await page.open(f"{server.url}agents", screen=PHONE, dark=True)
        await page.until("document.querySelectorAll('#agent-table tbody tr').length === 3")
        await page.until("document.querySelectorAll('#agent-table .pill.lost').length === 1")
        await shot(page, "agents-phone.png")
        width = await page.run("return document.documentElement.scrollWidth")
        assert width <= 390
        assert await page.console_errors() == []


async def shot(page: BrowserPage, name: str) -> None:
    """Keep a picture for people if SHOTS names a folder."""
    if folder := os.environ.get("SHOTS"):
        await page.do(lambda chrome: chrome.save_screenshot(str(Path(folder) / name)))
