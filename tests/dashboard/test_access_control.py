"""Access control: host names, origins, login links, tokens and sessions."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from agent.config.services import DashboardConfig
from agent.core.errors import SafetyError
from agent.core.events import MINUTE_MS
from agent.dashboard.login import LINK_LIFETIME, FailedLogins
from agent.dashboard.server import Dashboard
from agent.live.access_token import make_token
from agent.store.database import Database, open_database
from tests.api.api_harness import api_served
from tests.dashboard.dashboard_harness import FakeAgent, client, origin, served
from tests.dashboard.replays import RecordedRuns, start
from tests.support.command_line import run_command

KILL: dict[str, Any] = {"action": "kill", "run": "20250303-142500-aaaaaaaa"}


class SteppedClock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.time = 1_741_011_900_000

    def now(self) -> int:
        return self.time


async def status_of(http: ClientSession, path: str, method: str = "GET", **options: Any) -> int:
    async with http.request(method, path, allow_redirects=False, **options) as response:
        return response.status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8610", 200),
        ("[::1]:8610", 200),
        ("bot.example", 200),
        ("BOT.example:80", 200),
        ("evil.example", 421),  # DNS rebinding
        ("192.0.2.7", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_the_page_is_served_under_known_host_names_only(
    database: Database, host: str, status: int
) -> None:
    async with (
        served(database, FakeAgent(), allowed_hosts=["bot.example"]) as page,
        client(page.login_url()) as http,
    ):
        assert await status_of(http, "/", headers={"Host": host}) == status


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (None, False),
        ("null", False),
        ("https://evil.example", False),
        ("http://127.0.0.1:1", False),
        ("http://localhost:{port}", False),  # this machine, but not the requested host name
        ("http://127.0.0.1:{port}.evil.example", False),
        ("http://127.0.0.1:{port}", True),
    ],
)
async def test_commands_and_the_websocket_are_accepted_from_the_page_only(
    database: Database, source: str | None, allowed: bool
) -> None:
    agent = FakeAgent()
    async with served(database, agent) as page, client(page.login_url()) as http:
        headers = {} if source is None else {"Origin": source.format(port=page.port)}
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=headers) == (
            200 if allowed else 403
        )
        assert agent.commands == ([("kill", {}, "dashboard 127.0.0.1")] if allowed else [])
        if allowed:
            async with http.ws_connect("/api/live", headers=headers) as socket:
                assert (await socket.receive_json())["head"]["strategy"] == "sma_cross"
        else:
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=headers)
            assert refused.value.status == 403


@pytest.mark.parametrize("path", ["/api/runs/x/replay", "/api/replays/x/cancel"])
async def test_jobs_are_started_and_cancelled_from_the_page_only(database: Database, path: str) -> None:
    body = {"work": "whatif"}
    async with served(database) as page, client(page.login_url()) as http:
        for source in (None, "null", "https://evil.example", "http://127.0.0.1:1"):
            headers = {} if source is None else {"Origin": source}
            assert await status_of(http, path, "POST", json=body, headers=headers) == 403
        assert await status_of(http, path, "POST", json=body, headers=origin(page)) == 404  # no such run, job
        assert await status_of(http, path, headers=origin(page)) == 405  # a link or an image can't
    async with served(database) as page, client(page.url) as http:  # not logged in
        headers = origin(page) | {"Sec-Fetch-Mode": "cors"}
        assert await status_of(http, path, "POST", json=body, headers=headers) == 401


async def test_other_agents_are_commanded_from_the_page_only(database: Database) -> None:
    body = {"agent": "a", "command": KILL}
    async with served(database) as page, client(page.login_url()) as http:
        path = "/api/agents/command"
        for source in (None, "null", "https://evil.example", "http://127.0.0.1:1"):
            headers = {} if source is None else {"Origin": source}
            assert await status_of(http, path, "POST", json=body, headers=headers) == 403
        assert await status_of(http, path, "POST", json=body, headers=origin(page)) == 404  # no such agent
        assert await status_of(http, path, headers=origin(page)) == 405
        for wrong in (
            {},
            body | {"url": "http://127.0.0.1:1"},
            {"agent": "a", "command": {"action": "exec"}},
        ):
            async with http.post(path, json=wrong, headers=origin(page)) as response:
                assert "malformed command" in (await response.json())["error"]
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert await status_of(http, "/api/agents", headers=foreign) == 403


async def test_a_token_of_the_api_does_not_open_the_page_of_agents(database: Database) -> None:
    async with api_served(database, commands=True) as server, server.session("read", "command") as http:
        cors = {"Sec-Fetch-Mode": "cors"}
        assert await status_of(http, "/api/v1/access") == 200
        assert await status_of(http, "/api/agents", headers=cors) == 401
        body = {"agent": "a", "command": KILL}
        assert await status_of(http, "/api/agents/command", "POST", json=body) == 403  # it has no Origin
        headers = origin(server.page)
        assert await status_of(http, "/api/agents/command", "POST", json=body, headers=headers) == 401


async def test_a_page_cant_choose_what_code_a_job_runs(runs: RecordedRuns) -> None:
    database, run, _ = runs
    attempts: list[dict[str, Any]] = [
        {"work": "whatif", "strategy": "/tmp/mine.py"},
        {"work": "whatif", "trust_strategy": True},
        {"work": "whatif", "url": "sqlite:///other.db"},
        {"work": "whatif", "folder": "/tmp"},
        {"work": "exec"},
    ]
    async with served(database) as page, client(page.login_url()) as http:
        for body in attempts:
            refused = await start(http, page, run.id, **body)
            assert refused["status"] == 404, body
            assert "malformed request" in refused["error"]
        huge = {"work": "whatif", "change": {"signals.threshold": "9" * 20_000}}
        path = f"/api/runs/{run.id}/replay"
        assert await status_of(http, path, "POST", json=huge, headers=origin(page)) == 413


async def test_another_site_may_link_to_the_page_but_not_load_it(database: Database) -> None:
    async with served(database, FakeAgent()) as page, client(page.login_url()) as http:
        from_other_site = {"Sec-Fetch-Site": "cross-site"}
        assert await status_of(http, "/", headers=from_other_site | {"Sec-Fetch-Mode": "navigate"}) == 200
        for path in ("/", "/api/runs", "/assets/app.js"):
            assert await status_of(http, path, headers=from_other_site | {"Sec-Fetch-Mode": "no-cors"}) == 403


async def test_every_response_has_the_strict_content_policy(database: Database) -> None:
    async with served(database, FakeAgent()) as page, client(page.login_url()) as http:
        for path in ("/", "/runs", "/assets/app.js", "/api/runs", "/api/replays/x", "/runs/x", "/missing"):
            async with http.get(path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        text = (Path(__file__).parents[2] / "agent/dashboard/page/index.html").read_text()
        assert "http://" not in text.replace("http://www.w3.org", "")  # nothing is loaded from other hosts
        assert 'src="http' not in text


@pytest.mark.parametrize("options", [{}, {"host": "0.0.0.0"}, {"login": "never", "host": "0.0.0.0"}])
async def test_nothing_is_accessible_before_the_login(database: Database, options: dict[str, Any]) -> None:
    agent = FakeAgent()
    async with served(database, agent, **options) as page, client(page.url) as http:
        here = origin(page)
        file = page.token_file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        token = file.read_text().strip()
        assert token not in page.announcement + page.login_announcement()
        for path in (
            *("/api/runs", "/assets/app.js", "/assets/what-if.js", "/runs/x/report", "/api/live"),
            *("/api/runs/x/changeable", "/api/runs/x/headlines", "/api/replays/x"),
            *("/api/agents", "/agents", "/assets/agents.js"),
        ):
            assert await status_of(http, path, headers={"Sec-Fetch-Mode": "cors"} | here) == 401, path
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here) == 401
        elsewhere: dict[str, Any] = {"agent": "a", "command": KILL}
        assert await status_of(http, "/api/agents/command", "POST", json=elsewhere, headers=here) == 401
        assert await status_of(http, "/logout", "POST") == 403
        assert await status_of(http, "/logout", "POST", headers=here) == 303  # without a session
        assert await status_of(http, "/") == 303  # to the login
        assert await status_of(http, "/login") == 200
        for wrong in ("", "x", token[:-1], token + "x", "ключ"):
            assert await status_of(http, "/login", "POST", data={"token": wrong}, headers=here) == 303
            assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401, wrong
        assert await status_of(http, "/login", "POST", data={"token": token}) == 403  # from another site
        async with http.post(
            "/login", data={"token": token}, headers=here, allow_redirects=False
        ) as response:
            (cookie,) = response.cookies.values()
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert token not in cookie.value
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here) == 200
        assert len(agent.commands) == 1
        identifier, expiry, signature = cookie.value.split(".")
        for forged in (
            f"{identifier}.{int(expiry) + 1}.{signature}",
            f"x{identifier}.{expiry}.{signature}",
            f"{identifier}.{expiry}.{signature[:-1]}",
            f"{identifier}.{expiry}.",
            f"{expiry}.{signature}",
            signature,
            "",
            "..",
            f"{identifier}.{'9' * 400}.{signature}",
        ):
            async with ClientSession(page.url) as other:
                assert await status_of(other, "/api/runs", headers=with_cookie(cookie.key, forged)) == 401, (
                    forged
                )


@pytest.mark.parametrize(
    ("config", "headers", "status"),
    [
        ({}, {}, 401),
        ({"login": "never"}, {}, 200),
        ({"login": "never", "allowed_hosts": ["localhost", "127.0.0.2"]}, {}, 200),
        ({"login": "never"}, {"X-Forwarded-For": "203.0.113.9"}, 401),
        ({"login": "never"}, {"X-Forwarded-Proto": "https"}, 401),
        ({"login": "never"}, {"Forwarded": "for=203.0.113.9"}, 401),
        ({"login": "never"}, {"Via": "1.1 proxy"}, 401),
        ({"login": "never"}, {"X-Real-IP": "203.0.113.9"}, 401),
        ({"login": "never", "allowed_hosts": ["bot.example.org"]}, {"Host": "bot.example.org"}, 401),
        ({"login": "never", "allowed_hosts": ["bot.example.org"]}, {}, 401),
        ({"login": "never", "host": "0.0.0.0"}, {}, 401),
    ],
)
async def test_the_login_can_be_disabled_on_loopback_but_not_behind_a_proxy(
    database: Database, config: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    agent = FakeAgent()
    async with served(database, agent, **config) as page, client(page.url) as http:
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"} | headers) == status
        here = {"Origin": f"http://{headers['Host']}"} if "Host" in headers else origin(page)
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here | headers) == status
        assert len(agent.commands) == (status == 200)


def with_cookie(name: str, value: str) -> dict[str, str]:
    return {"Cookie": f"{name}={value}", "Sec-Fetch-Mode": "cors"}


@asynccontextmanager
async def served_on_clock(
    database: Database, folder: Path, **options: Any
) -> AsyncIterator[tuple[Dashboard, SteppedClock, str]]:
    """Serve a page with a manual clock; yield the page, the clock and the token."""
    clock = SteppedClock()
    config = DashboardConfig.model_validate({"port": 0} | options)
    async with Dashboard(config, database, FakeAgent(), token_file=folder / "t", clock=clock) as page:
        yield page, clock, (folder / "t").read_text().strip()


async def test_a_login_link_works_once_for_ten_minutes(database: Database, tmp_path: Path) -> None:
    async with served_on_clock(database, tmp_path) as (page, clock, _), client(page.url) as http:
        link = page.login_url()
        path = f"/{link.removeprefix(page.url)}"
        assert await status_of(http, path, headers={"Sec-Purpose": "prefetch;prerender"}) == 503
        assert await status_of(http, path, "HEAD") == 401
        assert await status_of(http, path, headers={"Sec-Fetch-Mode": "no-cors"}) == 401
        assert await status_of(http, path, headers={"Host": "evil.example"}) == 421
        async with http.get(f"/runs{path[1:]}&at=5", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "./runs?at=5")
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with http.get(
            path, allow_redirects=False
        ) as response:  # already used, but the browser is logged in
            assert (response.status, response.headers["Location"]) == (303, "./")
        async with http.get(f"{page.url}/evil.example/{path[1:]}", allow_redirects=False) as response:
            assert urljoin(page.url, response.headers["Location"]) == f"{page.url}evil.example/"
        async with client(page.url) as other:
            async with other.get(path) as response:
                assert "used already" in await response.text()
            late = page.login_url().removeprefix(page.url)
            clock.time += LINK_LIFETIME
            assert await status_of(other, f"/{late}") == 303
            assert await status_of(other, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401


async def test_a_login_link_on_another_site_works(database: Database) -> None:
    """A browser sends no strict cookie on a redirect that another site started, so a refresh page takes its
    place.
    """
    from_other_site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with served(database, FakeAgent()) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(f"/{link}", headers=from_other_site, allow_redirects=False) as response:
            assert response.status == 200
            assert 'http-equiv="refresh" content="0; url=./"' in await response.text()
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with (
            ClientSession(page.url) as other,
            other.get("/runs?a=<b>", headers=from_other_site) as response,
        ):
            assert 'url=./runs?a=%3Cb%3E"' in await response.text()


async def test_unused_login_links_are_bounded(database: Database) -> None:
    async with served(database, FakeAgent()) as page, client(page.url) as http:
        first, *_, last = [page.login_url().removeprefix(page.url) for _ in range(100)]
        assert [await status_of(http, f"/{link}") for link in (first, last)] == [303, 303]
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with client(page.url) as other, other.get(f"/{first}", allow_redirects=False) as response:
            assert response.headers["Location"] == "./login?link"


async def test_a_logout_ends_the_session_permanently(database: Database, tmp_path: Path) -> None:
    async with served_on_clock(database, tmp_path) as (page, _, _), client(page.login_url()) as http:
        (mine,) = http.cookie_jar
        async with (
            client(page.login_url()) as other,
            http.ws_connect("/api/live", headers=origin(page)) as stream,
        ):
            await stream.receive_json()
            assert await status_of(http, "/logout", "POST") == 403  # another site can't log the user out
            assert await status_of(http, "/logout", "POST", headers=origin(page)) == 303
            assert list(http.cookie_jar) == []
            async with asyncio.timeout(10):
                async for _ in stream:
                    pass
            assert stream.close_code == 1008
            assert (
                await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 401
            )  # a copy of the cookie
            (theirs,) = other.cookie_jar
            assert await status_of(other, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
    async with (
        served_on_clock(database, tmp_path) as (page, _, _),
        client(page.url) as http,
    ):  # after a restart
        assert await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 401
        assert await status_of(http, "/api/runs", headers=with_cookie(theirs.key, theirs.value)) == 200
        assert stat.S_IMODE((tmp_path / "t.ended").stat().st_mode) == 0o600


async def test_a_new_token_ends_all_sessions(database: Database, tmp_path: Path) -> None:
    async with served_on_clock(database, tmp_path) as (page, _, token), client(page.login_url()) as http:
        (mine,) = http.cookie_jar
        assert await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 200
        (tmp_path / "t").unlink()
        make_token(tmp_path / "t")
        assert await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 401
        assert await status_of(http, "/login", "POST", data={"token": token}, headers=origin(page)) == 303
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401
        fresh = (tmp_path / "t").read_text()
        assert await status_of(http, "/login", "POST", data={"token": fresh}, headers=origin(page)) == 303
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200


async def test_a_session_expires(database: Database, tmp_path: Path) -> None:
    async with (
        served_on_clock(database, tmp_path, session=60) as (page, clock, _),
        client(page.login_url()) as http,
    ):
        (mine,) = http.cookie_jar
        assert await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 200
        clock.time += MINUTE_MS
        assert await status_of(http, "/api/runs", headers=with_cookie(mine.key, mine.value)) == 401


async def test_wrong_tokens_are_limited_and_the_right_one_is_always_accepted(
    database: Database, tmp_path: Path
) -> None:
    async with (
        served_on_clock(database, tmp_path, attempts=3) as (page, clock, token),
        client(page.url) as http,
    ):

        async def attempt(value: str) -> int:
            return await status_of(http, "/login", "POST", data={"token": value}, headers=origin(page))

        assert [await attempt(value) for value in ("a", "b", "c", "d")] == [303, 303, 303, 429]
        assert await attempt(token) == 303
        # The owner gets in from the same address
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        assert await attempt("e") == 429
        clock.time += MINUTE_MS
        assert await attempt("f") == 303
        assert page.listener.status.denied == 6


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client_address"),
    [
        ([], "203.0.113.9", "127.0.0.1"),  # not from a trusted proxy
        (["127.0.0.1"], "203.0.113.9", "203.0.113.9"),
        (["127.0.0.0/8", "198.51.100.7"], "192.0.2.1, 203.0.113.9, 198.51.100.7", "203.0.113.9"),
        (["127.0.0.1"], "192.0.2.1, not an address", "127.0.0.1"),
        (["127.0.0.1"], "", "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_determines_the_client_address(
    database: Database, proxies: list[str], forwarded: str, client_address: str
) -> None:
    agent = FakeAgent()
    async with served(database, agent, trusted_proxies=proxies) as page, client(page.login_url()) as http:
        assert (
            await status_of(
                http, "/api/command", "POST", json=KILL, headers=origin(page) | {"X-Forwarded-For": forwarded}
            )
            == 200
        )
        assert agent.commands[0][2] == f"dashboard {client_address}"


@pytest.mark.parametrize(("proxies", "secure"), [([], False), (["127.0.0.1"], True)])
async def test_behind_https_the_cookie_is_secure(
    database: Database, proxies: list[str], secure: bool
) -> None:
    async with served(database, FakeAgent(), trusted_proxies=proxies) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(
            f"/{link}", headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
        ) as response:
            (cookie,) = response.cookies.values()
        assert bool(cookie["secure"]) is secure


def test_failed_logins_are_counted_per_client_for_a_minute() -> None:
    clock = SteppedClock()
    failed = FailedLogins(2, clock)
    failed.add("a")
    clock.time += 10_000
    failed.add("a")
    assert (failed.retry_after("a"), failed.retry_after("b")) == (50, 0)
    for _ in range(100):
        failed.add("a")
    assert failed.retry_after("a") == 60
    for number in range(2_000):
        failed.add(str(number))
    assert failed.retry_after("a") == 0  # the number of clients is bounded


def test_a_token_file_that_others_can_read_is_refused(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text("x" * 43)
    file.chmod(0o640)
    with pytest.raises(SafetyError, match="other users may access"):
        Dashboard(DashboardConfig(host="192.0.2.1", token_file=file), database)


def test_the_command_refuses_a_short_token_with_exit_code_3(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 's.db'}").close()
    file = tmp_path / "t"
    file.write_text("short")
    file.chmod(0o600)
    (tmp_path / "c.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path / "s.db"}"\n[dashboard]\ntoken_file = "{file}"\n'
    )
    result = run_command(["dashboard", "--config", str(tmp_path / "c.toml"), "--host", "0.0.0.0"])
    assert isinstance(result.exception, SafetyError)
    assert result.exception.exit_code == 3


async def test_the_number_of_connected_pages_is_limited(database: Database) -> None:
    async with served(database, FakeAgent(), browsers=1) as page, client(page.login_url()) as http:
        async with http.ws_connect("/api/live", headers=origin(page)) as first:
            await first.receive_json()
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=origin(page))
            assert refused.value.status == 503
        async with asyncio.timeout(10):
            while await status_of(http, "/api/live", headers=origin(page) | {"Upgrade": "websocket"}) == 503:
                await asyncio.sleep(0.01)
