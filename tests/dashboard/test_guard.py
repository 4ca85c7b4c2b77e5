"""Who gets in: this machine's browsers by this page alone, others with the token."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from typer.testing import CliRunner

from agent.cli.main import build
from agent.config_dashboard import DashboardConfig
from agent.dashboard.guard import COOKIE, Attempts
from agent.dashboard.server import Dashboard
from agent.errors import SafetyError
from agent.events import MINUTE_MS
from agent.store.database import Database, open_database
from tests.dashboard.world import Puppet, client, origin, served

KILL: dict[str, Any] = {"action": "kill", "run": "20250303-142500-aaaa"}


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1_741_011_900_000

    def now(self) -> int:
        return self.time


async def status_of(http: ClientSession, path: str, method: str = "GET", **options: Any) -> int:
    async with http.request(method, path, allow_redirects=False, **options) as answer:
        return answer.status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8610", 200),
        ("[::1]:8610", 200),
        ("desk.example", 200),
        ("DESK.example:80", 200),
        ("evil.example", 421),  # its name points here: DNS rebinding
        ("192.0.2.7", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_the_page_is_served_under_known_names_alone(database: Database, host: str, status: int) -> None:
    async with served(database, Puppet(), allowed_hosts=["desk.example"]) as page, client(page.url) as http:
        assert await status_of(http, "/", headers={"Host": host}) == status


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, False),
        ("null", False),
        ("https://evil.example", False),
        ("http://127.0.0.1:1", False),
        ("http://localhost:{port}", False),  # this machine, under another name than the one called
        ("http://127.0.0.1:{port}.evil.example", False),
        ("http://127.0.0.1:{port}", True),
    ],
)
async def test_commands_and_the_stream_are_this_pages_own(database: Database, source: str | None, told: bool) -> None:
    puppet = Puppet()
    async with served(database, puppet) as page, client(page.url) as http:
        headers = {} if source is None else {"Origin": source.format(port=page.port)}
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=headers) == (200 if told else 403)
        assert puppet.told == ([("kill", {}, "dashboard 127.0.0.1")] if told else [])
        if told:
            async with http.ws_connect("/api/live", headers=headers) as socket:
                assert (await socket.receive_json())["head"]["strategy"] == "sma_cross"
        else:
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=headers)
            assert refused.value.status == 403


async def test_another_site_may_link_to_the_page_and_load_nothing_of_it(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.url) as http:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        assert await status_of(http, "/", headers=foreign | {"Sec-Fetch-Mode": "navigate"}) == 200
        for path in ("/", "/api/runs", "/assets/app.js"):
            assert await status_of(http, path, headers=foreign | {"Sec-Fetch-Mode": "no-cors"}) == 403


async def test_every_answer_forbids_what_the_page_does_not_need(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.url) as http:
        for path in ("/", "/runs", "/assets/app.js", "/api/runs", "/nothing"):
            async with http.get(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = (Path(__file__).parents[2] / "agent/dashboard/page/index.html").read_text()
        assert "http://" not in text.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
        assert 'src="http' not in text


async def test_elsewhere_nothing_is_shown_before_the_token_was_given(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "page.token"
    puppet = Puppet()
    async with served(database, puppet, host="0.0.0.0", token_file=str(file)) as page, client(page.url) as http:
        here = origin(page)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        token = file.read_text().strip()
        assert token not in page.announcement
        for path in ("/api/runs", "/assets/app.js", "/runs/x/report", "/api/live"):
            assert await status_of(http, path, headers={"Sec-Fetch-Mode": "cors"} | here) == 401, path
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here) == 401
        assert await status_of(http, "/") == 303  # to the login
        assert await status_of(http, "/login") == 200
        for wrong in ("", "x", token[:-1], token + "x", "ключ"):
            assert await status_of(http, "/login", "POST", data={"token": wrong}, headers=here) == 303
            assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401, wrong
        assert await status_of(http, "/login", "POST", data={"token": token}) == 403  # from another site
        async with http.post("/login", data={"token": token}, headers=here, allow_redirects=False) as answer:
            cookie = answer.cookies[COOKIE]
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert token not in cookie.value
        http.cookie_jar.update_cookies({COOKIE: cookie.value})
        inside = {"Cookie": f"{COOKIE}={cookie.value}"}
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here | inside) == 200
        assert len(puppet.told) == 1
        ends, _, seal = cookie.value.partition(".")
        for forged in (f"{int(ends) + 1}.{seal}", f"{ends}.{seal[:-1]}", f"{ends}.", seal, "9" * 400 + "." + seal):
            headers = {"Cookie": f"{COOKIE}={forged}", "Sec-Fetch-Mode": "cors"}
            async with ClientSession(page.url) as other:
                assert await status_of(other, "/api/runs", headers=headers) == 401


async def test_a_login_ends_by_itself_and_wrong_tokens_are_slowed_down(database: Database, tmp_path: Path) -> None:
    clock = Hand()
    config = DashboardConfig(host="0.0.0.0", port=0, token_file=tmp_path / "t", attempts=3, session=60)
    async with Dashboard(config, database, Puppet(), clock=clock) as page, client(page.url) as http:
        token, here = (tmp_path / "t").read_text().strip(), origin(page)
        said = [await status_of(http, "/login", "POST", data={"token": word}, headers=here) for word in ("a", "b", "c", token)]
        assert said == [303, 303, 303, 429]
        clock.time += MINUTE_MS
        async with http.post("/login", data={"token": token}, headers=here, allow_redirects=False) as answer:
            inside = {"Cookie": f"{COOKIE}={answer.cookies[COOKIE].value}", "Sec-Fetch-Mode": "cors"}
        assert await status_of(http, "/api/runs", headers=inside) == 200
        clock.time += MINUTE_MS
        assert await status_of(http, "/api/runs", headers=inside) == 401


def test_attempts_are_counted_by_address_and_forgotten() -> None:
    clock = Hand()
    attempts = Attempts(2, clock)
    attempts.wrong("a")
    clock.time += 10_000
    attempts.wrong("a")
    assert (attempts.wait("a"), attempts.wait("b")) == (50, 0)
    for number in range(2_000):
        attempts.wrong(str(number))
    assert attempts.wait("a") == 0  # the memory of addresses is bounded


def test_a_token_that_others_can_read_is_refused(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text("x" * 43)
    file.chmod(0o640)
    with pytest.raises(SafetyError, match="others than its owner"):
        Dashboard(DashboardConfig(host="192.0.2.1", token_file=file), database)


def test_the_verb_refuses_it_with_exit_code_3(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 's.db'}").close()
    file = tmp_path / "t"
    file.write_text("short")
    file.chmod(0o600)
    (tmp_path / "c.toml").write_text(f'[store]\nurl = "sqlite:///{tmp_path / "s.db"}"\n[dashboard]\ntoken_file = "{file}"\n')
    result = CliRunner().invoke(build(), ["dashboard", "--config", str(tmp_path / "c.toml"), "--host", "0.0.0.0"])
    assert isinstance(result.exception, SafetyError)
    assert result.exception.exit_code == 3


async def test_too_many_pages_are_turned_away(database: Database) -> None:
    async with served(database, Puppet(), browsers=1) as page, client(page.url) as http:
        async with http.ws_connect("/api/live", headers=origin(page)) as first:
            await first.receive_json()
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=origin(page))
            assert refused.value.status == 503
        async with asyncio.timeout(10):
            while await status_of(http, "/api/live", headers=origin(page) | {"Upgrade": "websocket"}) == 503:
                await asyncio.sleep(0.01)
