"""The page behind a reverse proxy, below a path."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, CookieJar, WSServerHandshakeError
from pydantic import ValidationError

from agent.config.services import DashboardConfig
from agent.store.database import Database
from tests.dashboard.dashboard_harness import FakeAgent, client, origin, served
from tests.dashboard.reverse_proxy import proxy

NAVIGATES = {"Sec-Fetch-Mode": "navigate"}


class LinkParser(HTMLParser):
    """The URLs in the markup of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src", "action") and value]


def links_in(page: str, kind: str) -> list[str]:
    """Return the URLs in a page, or the imports of a script."""
    if kind == "text/html":
        return LinkParser(page).found
    return re.findall(r'from "([^"]+)"', page)


async def crawl(http: ClientSession, start: str) -> dict[str, int]:
    """Follow all links from `start` on the same server, except the logout.

    Return the status of each URL.
    """
    found: dict[str, int] = {}
    waiting = [start]
    while waiting:
        url = waiting.pop()
        if url in found or url.endswith("/logout") or not url.startswith("http://127.0.0.1"):
            continue
        async with http.get(url, headers=NAVIGATES) as response:
            found[url] = response.status
            text = await response.text()
            waiting += [urljoin(str(response.url), link) for link in links_in(text, response.content_type)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "proxy_options"),
    [
        ({}, {}),  # a proxy that strips its prefix and sends no header
        ({"trusted_proxies": ["127.0.0.1"]}, {"X_Forwarded_Prefix": "/tapewire"}),
        ({"base_path": "/tapewire"}, {"strip": False}),
        ({"trusted_proxies": ["127.0.0.1"]}, {"keep_host": False, "X_Forwarded_Host": "{host}"}),
    ],
)
async def test_all_links_and_the_websocket_work_below_a_path(
    database: Database, options: dict[str, Any], proxy_options: dict[str, Any]
) -> None:
    agent = FakeAgent()
    async with (
        served(database, agent, **options) as page,
        proxy(page.url, **proxy_options) as url,
        ClientSession(cookie_jar=CookieJar(unsafe=True)) as http,
    ):
        here = {"Origin": url.removesuffix("/tapewire/")}
        async with http.get(url, headers=NAVIGATES) as response:  # redirects to the login
            assert str(response.url) == f"{url}login"
            links = [
                urljoin(str(response.url), link) for link in links_in(await response.text(), "text/html")
            ]
            assert links == [f"{url}assets/icon.svg", f"{url}assets/style.css", f"{url}login"]
        async with http.post(f"{url}login", data={"token": "x"}, headers=here | NAVIGATES) as response:
            assert str(response.url) == f"{url}login?wrong"
        token = page.token_file.read_text().strip()
        async with http.post(f"{url}login", data={"token": token}, headers=here | NAVIGATES) as response:
            assert str(response.url) == url
        (cookie,) = http.cookie_jar
        known = "base_path" in options or "X_Forwarded_Prefix" in proxy_options
        assert cookie["path"] == ("/tapewire/" if known else "/")
        for start in ("favicon.ico", "", "runs", "runs/20250303-142500-aaaaaaaa"):
            assert set((await crawl(http, url + start)).values()) == {200}, start
        async with http.ws_connect(f"{url}api/live", headers=here) as stream:
            assert (await stream.receive_json())["head"]["strategy"] == "sma_cross"
        async with http.post(f"{url}logout", headers=here | NAVIGATES) as response:
            assert str(response.url) == f"{url}login"
        assert list(http.cookie_jar) == []
        async with http.get(
            f"{url}runs/x?at=5&login={page.login_url().partition('=')[2]}", headers=NAVIGATES
        ) as response:
            assert (response.status, str(response.url)) == (200, f"{url}runs/x?at=5")


async def test_no_script_contains_an_absolute_path(database: Database) -> None:
    async with served(database, FakeAgent()) as page, client(page.login_url()) as http:
        for name in ("app.js", "panels.js", "drift.js", "charts.js", "format.js"):
            async with http.get(f"/assets/{name}") as response:
                assert not re.findall(r"""["'`]/(?:assets|api|runs|login)\b""", await response.text()), name


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_forwarded_headers_count_only_from_a_trusted_proxy(
    database: Database, trusted: list[str]
) -> None:
    forwarded = {"X-Forwarded-Host": "bot.example", "X-Forwarded-Prefix": "/tapewire"}
    async with served(database, FakeAgent(), trusted_proxies=trusted, allowed_hosts=["bot.example"]) as page:
        async with (
            client(page.url) as http,
            http.get(
                f"/{page.login_url().removeprefix(page.url)}", headers=forwarded, allow_redirects=False
            ) as response,
        ):
            (cookie,) = response.cookies.values()
            assert cookie["path"] == ("/tapewire/" if trusted else "/")
        async with client(page.login_url()) as http:
            headers = forwarded | {"Origin": "https://bot.example"}
            if trusted:
                async with http.ws_connect("/api/live", headers=headers) as stream:
                    assert (await stream.receive_json())["head"]["strategy"] == "sma_cross"
            else:
                with pytest.raises(WSServerHandshakeError) as refused:
                    await http.ws_connect("/api/live", headers=headers)
                assert refused.value.status == 403


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [("evil.example", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("127.0.0.1", "127.0.0.1, evil.example")],
)
async def test_an_unknown_host_name_is_refused_in_either_header(
    database: Database, host: str, forwarded: str
) -> None:
    async with (
        served(database, FakeAgent(), trusted_proxies=["127.0.0.1"]) as page,
        client(page.login_url()) as http,
        http.get("/", headers={"Host": host, "X-Forwarded-Host": forwarded}) as response,
    ):
        assert response.status == 421


@pytest.mark.parametrize(
    "prefix", ["/a; Domain=evil.example", "//evil.example", "evil", "/a, /b", "/a\\b", "/ключ"]
)
async def test_a_malformed_prefix_is_ignored(database: Database, prefix: str) -> None:
    async with served(database, FakeAgent(), trusted_proxies=["127.0.0.1"]) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(
            f"/{link}", headers={"X-Forwarded-Prefix": prefix}, allow_redirects=False
        ) as response:
            (cookie,) = response.cookies.values()
        assert cookie["path"] == "/"


@pytest.mark.parametrize("path", ["tapewire", "/tapewire/", "//evil.example", "/a b", "/"])
def test_a_malformed_base_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"write e\.g\. /tapewire"):
        DashboardConfig(base_path=path)


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "//evil.example/..%2f"])
async def test_no_redirect_leads_to_another_site(database: Database, path: str) -> None:
    async with served(database, FakeAgent()) as page, client(page.url) as http:
        for query in (f"login={page.login_url().partition('=')[2]}", ""):
            async with http.get(
                f"{page.url.rstrip('/')}{path}?{query}", headers=NAVIGATES, allow_redirects=False
            ) as response:
                if response.status == 303:
                    assert urljoin("https://bot.example/tapewire/x", response.headers["Location"]).startswith(
                        "https://bot.example/"
                    )


async def test_behind_a_proxy_commands_are_accepted_from_the_page_only(database: Database) -> None:
    agent = FakeAgent()
    command = {"action": "kill", "run": "20250303-142500-aaaaaaaa"}
    async with served(database, agent) as page, proxy(page.url) as url, client(page.login_url()) as http:
        for source, status in ((origin(page)["Origin"], 403), (url.removesuffix("/tapewire/"), 200)):
            cookies = {one.key: one.value for one in http.cookie_jar}
            async with (
                ClientSession(cookies=cookies, cookie_jar=CookieJar(unsafe=True)) as session,
                session.post(f"{url}api/command", json=command, headers={"Origin": source}) as response,
            ):
                assert response.status == status
    assert len(agent.commands) == 1
