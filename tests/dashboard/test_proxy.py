"""The page below a path of a reverse proxy."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, CookieJar, WSServerHandshakeError
from pydantic import ValidationError

from agent.config.dashboard import DashboardConfig
from agent.store.database import Database
from tests.dashboard.proxy import proxy
from tests.dashboard.world import Puppet, client, origin, served

NAVIGATES = {"Sec-Fetch-Mode": "navigate"}


class Links(HTMLParser):
    """Every address that a page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src", "action") and value]


def addresses_of(page: str, kind: str) -> list[str]:
    """Addresses in a page or in a script."""
    if kind == "text/html":
        return Links(page).found
    return re.findall(r'from "([^"]+)"', page)


async def crawl(http: ClientSession, start: str) -> dict[str, int]:
    """Status of each address of the same server that the page at `start` leads to, forms apart."""
    found: dict[str, int] = {}
    waiting = [start]
    while waiting:
        url = waiting.pop()
        if url in found or url.endswith("/logout") or not url.startswith("http://127.0.0.1"):
            continue
        async with http.get(url, headers=NAVIGATES) as answer:
            found[url] = answer.status
            text = await answer.text()
            waiting += [urljoin(str(answer.url), link) for link in addresses_of(text, answer.content_type)]
    return found


@pytest.mark.parametrize(
    ("options", "serving"),
    [
        ({}, {}),  # a proxy that strips its prefix and says nothing
        ({"trusted_proxies": ["127.0.0.1"]}, {"X_Forwarded_Prefix": "/tapewire"}),
        ({"base_path": "/tapewire"}, {"strip": False}),
        ({"trusted_proxies": ["127.0.0.1"]}, {"keep_host": False, "X_Forwarded_Host": "{host}"}),
    ],
)
async def test_below_a_path_everything_is_found_and_the_stream_flows(
    database: Database, options: dict[str, Any], serving: dict[str, Any]
) -> None:
    puppet = Puppet()
    async with (
        served(database, puppet, **options) as page,
        proxy(page.url, **serving) as url,
        ClientSession(cookie_jar=CookieJar(unsafe=True)) as http,
    ):
        here = {"Origin": url.removesuffix("/tapewire/")}
        async with http.get(url, headers=NAVIGATES) as answer:  # asks for the login
            assert str(answer.url) == f"{url}login"
            assert [urljoin(str(answer.url), link) for link in addresses_of(await answer.text(), "text/html")] == [
                f"{url}assets/icon.svg", f"{url}assets/style.css", f"{url}login",
            ]  # fmt: skip
        async with http.post(f"{url}login", data={"token": "x"}, headers=here | NAVIGATES) as answer:
            assert str(answer.url) == f"{url}login?wrong"
        token = page.token_file.read_text().strip()
        async with http.post(f"{url}login", data={"token": token}, headers=here | NAVIGATES) as answer:
            assert str(answer.url) == url
        (cookie,) = http.cookie_jar
        known = "base_path" in options or "X_Forwarded_Prefix" in serving
        assert cookie["path"] == ("/tapewire/" if known else "/")
        for start in ("favicon.ico", "", "runs", "runs/20250303-142500-aaaa"):
            assert set((await crawl(http, url + start)).values()) == {200}, start
        async with http.ws_connect(f"{url}api/live", headers=here) as stream:
            assert (await stream.receive_json())["head"]["strategy"] == "sma_cross"
        async with http.post(f"{url}logout", headers=here | NAVIGATES) as answer:
            assert str(answer.url) == f"{url}login"
        assert list(http.cookie_jar) == []
        async with http.get(
            f"{url}runs/x?at=5&login={page.login_url().partition('=')[2]}", headers=NAVIGATES
        ) as answer:
            assert (answer.status, str(answer.url)) == (200, f"{url}runs/x?at=5")


async def test_no_script_names_an_address_from_the_root(database: Database) -> None:
    async with served(database, Puppet()) as page, client(page.login_url()) as http:
        for name in ("app.js", "panels.js", "charts.js", "format.js"):
            async with http.get(f"/assets/{name}") as answer:
                assert not re.findall(r"""["'`]/(?:assets|api|runs|login)\b""", await answer.text()), name


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_what_a_proxy_says_counts_only_if_it_is_trusted(database: Database, trusted: list[str]) -> None:
    told = {"X-Forwarded-Host": "bot.example", "X-Forwarded-Prefix": "/tapewire"}
    async with served(database, Puppet(), trusted_proxies=trusted, allowed_hosts=["bot.example"]) as page:
        async with (
            client(page.url) as http,
            http.get(
                f"/{page.login_url().removeprefix(page.url)}", headers=told, allow_redirects=False
            ) as answer,
        ):
            (cookie,) = answer.cookies.values()
            assert cookie["path"] == ("/tapewire/" if trusted else "/")
        async with client(page.login_url()) as http:
            headers = told | {"Origin": "https://bot.example"}
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
async def test_a_foreign_name_is_refused_whatever_is_said_to_be_forwarded(
    database: Database, host: str, forwarded: str
) -> None:
    async with (
        served(database, Puppet(), trusted_proxies=["127.0.0.1"]) as page,
        client(page.login_url()) as http,
        http.get("/", headers={"Host": host, "X-Forwarded-Host": forwarded}) as answer,
    ):
        assert answer.status == 421


@pytest.mark.parametrize(
    "prefix", ["/a; Domain=evil.example", "//evil.example", "evil", "/a, /b", "/a\\b", "/ключ"]
)
async def test_a_prefix_that_is_no_path_is_not_used(database: Database, prefix: str) -> None:
    async with served(database, Puppet(), trusted_proxies=["127.0.0.1"]) as page, client(page.url) as http:
        link = page.login_url().removeprefix(page.url)
        async with http.get(
            f"/{link}", headers={"X-Forwarded-Prefix": prefix}, allow_redirects=False
        ) as answer:
            (cookie,) = answer.cookies.values()
        assert cookie["path"] == "/"


@pytest.mark.parametrize("path", ["tapewire", "/tapewire/", "//evil.example", "/a b", "/"])
def test_a_base_path_has_a_form(path: str) -> None:
    with pytest.raises(ValidationError, match=r"write e\.g\. /tapewire"):
        DashboardConfig(base_path=path)


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "//evil.example/..%2f"])
async def test_no_redirect_leads_to_another_site(database: Database, path: str) -> None:
    async with served(database, Puppet()) as page, client(page.url) as http:
        for query in (f"login={page.login_url().partition('=')[2]}", ""):
            async with http.get(
                f"{page.url.rstrip('/')}{path}?{query}", headers=NAVIGATES, allow_redirects=False
            ) as answer:
                if answer.status == 303:
                    assert urljoin("https://bot.example/tapewire/x", answer.headers["Location"]).startswith(
                        "https://bot.example/"
                    )


async def test_the_origin_of_a_command_is_still_the_pages_own(database: Database) -> None:
    puppet = Puppet()
    order = {"action": "kill", "run": "20250303-142500-aaaa"}
    async with served(database, puppet) as page, proxy(page.url) as url, client(page.login_url()) as http:
        for source, status in ((origin(page)["Origin"], 403), (url.removesuffix("/tapewire/"), 200)):
            cookies = {one.key: one.value for one in http.cookie_jar}
            async with (
                ClientSession(cookies=cookies, cookie_jar=CookieJar(unsafe=True)) as outside,
                outside.post(f"{url}api/command", json=order, headers={"Origin": source}) as answer,
            ):
                assert answer.status == status
    assert len(puppet.told) == 1
