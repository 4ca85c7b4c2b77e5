"""Access: browsers that logged in, by this page alone."""

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
from typer.testing import CliRunner

from agent.cli.main import build
from agent.config.dashboard import DashboardConfig
from agent.core.errors import SafetyError
from agent.core.events import MINUTE_MS
from agent.dashboard.login import LINK_LIFE, Attempts
from agent.dashboard.server import Dashboard
from agent.live.access_token import make_token
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
    async with (
        served(database, Puppet(), allowed_hosts=["desk.example"]) as page,
        client(page.login_url()) as http,
    ):
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
async def test_commands_and_the_stream_are_this_pages_own(
    database: Database, source: str | None, told: bool
) -> None:
    puppet = Puppet()
    async with served(database, puppet) as page, client(page.login_url()) as http:
        headers = {} if source is None else {"Origin": source.format(port=page.port)}
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=headers) == (
            200 if told else 403
        )
        assert puppet.told == ([("kill", {}, "dashboard 127.0.0.1")] if told else [])
        if told:
            async with http.ws_connect("/api/live", headers=headers) as socket:
                assert (await socket.receive_json())["head"]["strategy"] == "sma_cross"
        else:
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=headers)
            assert refused.value.status == 403


async def test_another_site_may_link_to_the_page_and_load_nothing_of_it(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.login_url()) as http:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        assert await status_of(http, "/", headers=foreign | {"Sec-Fetch-Mode": "navigate"}) == 200
        for path in ("/", "/api/runs", "/assets/app.js"):
            assert await status_of(http, path, headers=foreign | {"Sec-Fetch-Mode": "no-cors"}) == 403


async def test_every_answer_forbids_what_the_page_does_not_need(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.login_url()) as http:
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


@pytest.mark.parametrize("options", [{}, {"host": "0.0.0.0"}, {"login": "never", "host": "0.0.0.0"}])
async def test_nothing_is_shown_before_the_token_was_given(
    database: Database, options: dict[str, Any]
) -> None:
    puppet = Puppet()
    async with served(database, puppet, **options) as page, client(page.url) as http:
        here = origin(page)
        file = page.token_file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        token = file.read_text().strip()
        assert token not in page.announcement + page.invitation()
        for path in ("/api/runs", "/assets/app.js", "/runs/x/report", "/api/live"):
            assert await status_of(http, path, headers={"Sec-Fetch-Mode": "cors"} | here) == 401, path
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here) == 401
        assert await status_of(http, "/logout", "POST") == 403
        assert await status_of(http, "/logout", "POST", headers=here) == 303  # of a session that has ended
        assert await status_of(http, "/") == 303  # to the login
        assert await status_of(http, "/login") == 200
        for wrong in ("", "x", token[:-1], token + "x", "ключ"):
            assert await status_of(http, "/login", "POST", data={"token": wrong}, headers=here) == 303
            assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401, wrong
        assert await status_of(http, "/login", "POST", data={"token": token}) == 403  # from another site
        async with http.post("/login", data={"token": token}, headers=here, allow_redirects=False) as answer:
            (cookie,) = answer.cookies.values()
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert token not in cookie.value
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here) == 200
        assert len(puppet.told) == 1
        identifier, ends, seal = cookie.value.split(".")
        for forged in (
            f"{identifier}.{int(ends) + 1}.{seal}", f"x{identifier}.{ends}.{seal}", f"{identifier}.{ends}.{seal[:-1]}",
            f"{identifier}.{ends}.", f"{ends}.{seal}", seal, "", "..", f"{identifier}.{'9' * 400}.{seal}",
        ):  # fmt: skip
            async with ClientSession(page.url) as other:
                assert await status_of(other, "/api/runs", headers=inside(cookie.key, forged)) == 401, forged


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
async def test_a_login_can_be_left_out_on_loopback_but_never_behind_a_proxy(
    database: Database, config: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    puppet = Puppet()
    async with served(database, puppet, **config) as page, client(page.url) as http:
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"} | headers) == status
        here = {"Origin": f"http://{headers['Host']}"} if "Host" in headers else origin(page)
        assert await status_of(http, "/api/command", "POST", json=KILL, headers=here | headers) == status
        assert len(puppet.told) == (status == 200)


def inside(name: str, value: str) -> dict[str, str]:
    return {"Cookie": f"{name}={value}", "Sec-Fetch-Mode": "cors"}


@asynccontextmanager
async def on_clock(
    database: Database, folder: Path, **options: Any
) -> AsyncIterator[tuple[Dashboard, Hand, str]]:
    """A page whose clock a test moves, and its token."""
    clock = Hand()
    config = DashboardConfig.model_validate({"port": 0} | options)
    async with Dashboard(config, database, Puppet(), token_file=folder / "t", clock=clock) as page:
        yield page, clock, (folder / "t").read_text().strip()


async def test_a_login_link_works_once_for_ten_minutes(database: Database, tmp_path: Path) -> None:
    async with on_clock(database, tmp_path) as (page, clock, _), client(page.url) as http:
        link = page.login_url()
        path = f"/{link.removeprefix(page.url)}"
        assert await status_of(http, path, headers={"Sec-Purpose": "prefetch;prerender"}) == 503
        assert await status_of(http, path, "HEAD") == 401
        assert await status_of(http, path, headers={"Sec-Fetch-Mode": "no-cors"}) == 401
        assert await status_of(http, path, headers={"Host": "evil.example"}) == 421
        async with http.get(f"/runs{path[1:]}&at=5", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "./runs?at=5")
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with http.get(path, allow_redirects=False) as answer:  # used, but this browser is logged in
            assert (answer.status, answer.headers["Location"]) == (303, "./")
        async with http.get(f"{page.url}/evil.example/{path[1:]}", allow_redirects=False) as answer:
            assert urljoin(page.url, answer.headers["Location"]) == f"{page.url}evil.example/"
        async with client(page.url) as other:
            async with other.get(path) as answer:
                assert "used already" in await answer.text()
            late = page.login_url().removeprefix(page.url)
            clock.time += LINK_LIFE
            assert await status_of(other, f"/{late}") == 303
            assert await status_of(other, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401


async def test_a_login_link_on_another_site_works_too(database: Database) -> None:
    """A browser keeps a strict cookie back from a redirect that another site began, so a page of ours goes on."""
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with served(database, Puppet()) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(f"/{link}", headers=foreign, allow_redirects=False) as answer:
            assert answer.status == 200
            assert 'http-equiv="refresh" content="0; url=./"' in await answer.text()
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with (
            ClientSession(page.url) as stranger,
            stranger.get("/runs?a=<b>", headers=foreign) as answer,
        ):
            assert 'url=./runs?a=%3Cb%3E"' in await answer.text()


async def test_unused_login_links_are_bounded(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.url) as http:
        first, *_, last = [page.login_url().removeprefix(page.url) for _ in range(100)]
        assert [await status_of(http, f"/{link}") for link in (first, last)] == [303, 303]
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        async with client(page.url) as other, other.get(f"/{first}", allow_redirects=False) as answer:
            assert answer.headers["Location"] == "./login?link"


async def test_logging_out_ends_the_session_everywhere_and_for_good(
    database: Database, tmp_path: Path
) -> None:
    async with on_clock(database, tmp_path) as (page, _, _), client(page.login_url()) as http:
        (mine,) = http.cookie_jar
        async with (
            client(page.login_url()) as other,
            http.ws_connect("/api/live", headers=origin(page)) as stream,
        ):
            await stream.receive_json()
            assert await status_of(http, "/logout", "POST") == 403  # another site can't log anybody out
            assert await status_of(http, "/logout", "POST", headers=origin(page)) == 303
            assert list(http.cookie_jar) == []
            async with asyncio.timeout(10):
                async for _ in stream:
                    pass
            assert stream.close_code == 1008
            # a copy of the cookie
            assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 401
            (theirs,) = other.cookie_jar
            assert await status_of(other, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
    async with on_clock(database, tmp_path) as (page, _, _), client(page.url) as http:  # started again
        assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 401
        assert await status_of(http, "/api/runs", headers=inside(theirs.key, theirs.value)) == 200
        assert stat.S_IMODE((tmp_path / "t.ended").stat().st_mode) == 0o600


async def test_a_new_token_ends_all_sessions_at_once(database: Database, tmp_path: Path) -> None:
    async with on_clock(database, tmp_path) as (page, _, token), client(page.login_url()) as http:
        (mine,) = http.cookie_jar
        assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 200
        (tmp_path / "t").unlink()
        make_token(tmp_path / "t")
        assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 401
        assert await status_of(http, "/login", "POST", data={"token": token}, headers=origin(page)) == 303
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 401
        fresh = (tmp_path / "t").read_text()
        assert await status_of(http, "/login", "POST", data={"token": fresh}, headers=origin(page)) == 303
        assert await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200


async def test_a_login_ends_by_itself(database: Database, tmp_path: Path) -> None:
    async with on_clock(database, tmp_path, session=60) as (page, clock, _), client(page.login_url()) as http:
        (mine,) = http.cookie_jar
        assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 200
        clock.time += MINUTE_MS
        assert await status_of(http, "/api/runs", headers=inside(mine.key, mine.value)) == 401


async def test_wrong_tokens_are_limited_and_the_right_one_is_always_taken(
    database: Database, tmp_path: Path
) -> None:
    async with on_clock(database, tmp_path, attempts=3) as (page, clock, token), client(page.url) as http:

        async def attempt(word: str) -> int:
            return await status_of(http, "/login", "POST", data={"token": word}, headers=origin(page))

        assert [await attempt(word) for word in ("a", "b", "c", "d")] == [303, 303, 303, 429]
        assert await attempt(token) == 303
        assert (
            await status_of(http, "/api/runs", headers={"Sec-Fetch-Mode": "cors"}) == 200
        )  # the owner, behind the same address
        assert await attempt("e") == 429
        clock.time += MINUTE_MS
        assert await attempt("f") == 303
        assert page.listener.status.denied == 6


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client_address"),
    [
        ([], "203.0.113.9", "127.0.0.1"),  # whoever says so
        (["127.0.0.1"], "203.0.113.9", "203.0.113.9"),
        (["127.0.0.0/8", "198.51.100.7"], "192.0.2.1, 203.0.113.9, 198.51.100.7", "203.0.113.9"),
        (["127.0.0.1"], "192.0.2.1, not an address", "127.0.0.1"),
        (["127.0.0.1"], "", "127.0.0.1"),
    ],
)
async def test_the_client_behind_a_trusted_proxy_is_the_one_that_it_names(
    database: Database, proxies: list[str], forwarded: str, client_address: str
) -> None:
    puppet = Puppet()
    async with served(database, puppet, trusted_proxies=proxies) as page, client(page.login_url()) as http:
        assert (
            await status_of(
                http, "/api/command", "POST", json=KILL, headers=origin(page) | {"X-Forwarded-For": forwarded}
            )
            == 200
        )
        assert puppet.told[0][2] == f"dashboard {client_address}"


@pytest.mark.parametrize(("proxies", "secure"), [([], False), (["127.0.0.1"], True)])
async def test_behind_https_the_cookie_is_for_https_alone(
    database: Database, proxies: list[str], secure: bool
) -> None:
    async with served(database, Puppet(), trusted_proxies=proxies) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(
            f"/{link}", headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
        ) as answer:
            (cookie,) = answer.cookies.values()
        assert bool(cookie["secure"]) is secure


def test_attempts_are_counted_by_address_and_forgotten() -> None:
    clock = Hand()
    attempts = Attempts(2, clock)
    attempts.wrong("a")
    clock.time += 10_000
    attempts.wrong("a")
    assert (attempts.wait("a"), attempts.wait("b")) == (50, 0)
    for _ in range(100):
        attempts.wrong("a")
    assert attempts.wait("a") == 60
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
    (tmp_path / "c.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path / "s.db"}"\n[dashboard]\ntoken_file = "{file}"\n'
    )
    result = CliRunner().invoke(
        build(), ["dashboard", "--config", str(tmp_path / "c.toml"), "--host", "0.0.0.0"]
    )
    assert isinstance(result.exception, SafetyError)
    assert result.exception.exit_code == 3


async def test_too_many_pages_are_turned_away(database: Database) -> None:
    async with served(database, Puppet(), browsers=1) as page, client(page.login_url()) as http:
        async with http.ws_connect("/api/live", headers=origin(page)) as first:
            await first.receive_json()
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect("/api/live", headers=origin(page))
            assert refused.value.status == 503
        async with asyncio.timeout(10):
            while await status_of(http, "/api/live", headers=origin(page) | {"Upgrade": "websocket"}) == 503:
                await asyncio.sleep(0.01)
