"""Who may do what: every route with every scope, and the guards of host, origin, rate and lifetime."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from agent import __version__
from agent.api import problems
from agent.api.api_messages import Problem, Scope
from agent.api.api_tokens import MAX_TOKENS, TokenRegistry
from agent.api.route_table import BASE, ROUTES, Route
from agent.core.errors import SafetyError, StoreError, UsageError
from agent.store.database import Database
from tests.api.api_harness import StubAgent, api_served
from tests.cli.conftest import Outcome
from tests.dashboard.dashboard_harness import client, origin

COMMAND = {"action": "pause"}
SETS = [scopes for size in range(4) for scopes in combinations([one.value for one in Scope], size)]


async def status_of(http: ClientSession, route: Route, **options: Any) -> tuple[int, Any]:
    """Request the route; return the status and, of an error, its problem's type."""
    body = {"json": COMMAND} if route.body else {}
    path = f"{BASE}{route.path.replace('{run}', 'none').replace('{job}', 'none')}"
    async with http.request(route.method, path, allow_redirects=False, **body | options) as response:
        if response.status < 400:
            return response.status, None
        assert response.content_type == problems.MEDIA_TYPE
        problem = json.loads(await response.read())
        assert set(problem) == set(Problem.__struct_fields__)
        assert problem["status"] == response.status
        return response.status, problem["type"].removeprefix(problems.URN)


@pytest.mark.parametrize("scopes", SETS, ids="+".join)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_a_route_is_open_to_its_scope_only(
    database: Database, route: Route, scopes: tuple[str, ...]
) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served:
        if not scopes:
            with pytest.raises(UsageError, match="needs a scope"):
                served.token()
            return
        async with served.session(*scopes) as http:
            status, kind = await status_of(http, route)
        allowed = route.scope.value in scopes
        assert (kind == "insufficient-scope") == (not allowed)
        off = kind == "jobs-disabled"  # this server runs none
        assert status in (200, 404) or off if allowed else status == 403
        sent = [("pause", {}, "api t0")] if allowed and route.name == "sendCommand" else []
        assert agent.commands == sent


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_no_route_answers_without_a_valid_token(database: Database, route: Route) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served, ClientSession(served.page.url) as http:
        revoked = served.token("read", "research", "command", name="revoked")
        expired = served.token("read", "research", "command", name="expired", expires_at=1)
        served.registry.revoke("revoked")
        for value in ("Bearer", "Bearer ", f"Bearer {revoked}", f"Bearer {expired}", f"bearer {'x' * 50}"):
            assert await status_of(http, route, headers={"Authorization": value}) == (401, "unauthorized")
        # without the scheme Bearer, the request counts as a browser's, which must come from the page
        expected = (403, "forbidden") if route.method == "POST" else (401, "unauthorized")
        for headers in ({}, {"Authorization": f"Basic {revoked}"}, {"Cookie": "tapewire=1"}):
            assert await status_of(http, route, headers=headers) == expected
        assert agent.commands == []
        assert served.page.listener.status.denied >= 5


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "evil.example"}, (421, "unknown-host")),
        ({"X-Forwarded-Host": "evil.example", "Host": "evil.example"}, (421, "unknown-host")),
        ({"Sec-Fetch-Site": "cross-site"}, (403, "forbidden")),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, (403, "forbidden")),
    ],
)
async def test_a_token_does_not_open_the_guards_against_other_sites(
    database: Database, route: Route, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served:
        async with served.session("read", "research", "command") as http:
            assert await status_of(http, route, headers=headers) == expected
        assert agent.commands == []


@pytest.mark.parametrize(
    ("source", "status"), [(None, 200), ("null", 403), ("https://evil.example", 403), ("{url}", 200)]
)
async def test_a_command_with_a_foreign_origin_is_refused_even_with_a_token(
    database: Database, source: str | None, status: int
) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served, served.session("command") as http:
        headers = {} if source is None else {"Origin": source.format(url=served.page.url.rstrip("/"))}
        async with http.post(f"{BASE}/commands", json=COMMAND, headers=headers) as response:
            assert response.status == status
        assert len(agent.commands) == (status == 200)


async def test_commands_need_the_switch_of_the_configuration_too(database: Database) -> None:
    agent = StubAgent()
    async with api_served(database, agent) as served, served.session("command") as http:
        async with http.post(f"{BASE}/commands", json=COMMAND) as response:
            problem = json.loads(await response.read())
        assert (response.status, problem["hint"]) == (403, "api.commands = true")
        assert agent.commands == []


ACCESS = [
    (("read",), True, True, False),
    (("read", "command"), True, True, True),
    (("read", "command"), False, True, False),
    (("read", "command"), True, False, False),  # only recorded runs are served
]


@pytest.mark.parametrize(("scopes", "switch", "running", "commands"), ACCESS)
async def test_a_token_can_learn_what_it_allows(
    database: Database, scopes: tuple[str, ...], switch: bool, running: bool, commands: bool
) -> None:
    agent = StubAgent() if running else None
    async with api_served(database, agent, commands=switch) as served:
        access = await served.call(lambda client: client.access(), scopes)
    assert access.commands is commands
    assert access.sender == "api t0"
    assert tuple(one.value for one in access.scopes) == scopes
    assert access.version == __version__


async def test_a_logged_in_browser_uses_the_api_from_its_own_page(database: Database) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served, client(served.page.login_url()) as http:
        async with http.get(f"{BASE}/runs") as response:
            assert response.status == 200
        async with http.post(f"{BASE}/commands", json=COMMAND) as response:
            assert response.status == 403  # no Origin
        async with http.post(f"{BASE}/commands", json=COMMAND, headers=origin(served.page)) as response:
            assert response.status == 200
        assert agent.commands == [("pause", {}, "dashboard 127.0.0.1")]
        async with http.get("/login?login=x", allow_redirects=False) as response:
            assert response.status == 303


async def test_a_token_does_not_open_the_page(database: Database) -> None:
    async with api_served(database, StubAgent()) as served, served.session("read", "command") as http:
        for path in ("/", "/api/runs", "/runs/none/report"):
            async with http.get(path, allow_redirects=False) as response:
                assert response.status == 303
        async with http.post("/api/command", json=COMMAND) as response:
            assert response.status == 403


async def test_a_login_link_is_not_redeemed_by_the_api(database: Database) -> None:
    async with api_served(database, StubAgent()) as served, ClientSession(served.page.url) as http:
        link = served.page.login_url().partition("?")[2]
        async with http.get(f"{BASE}/runs?{link}", allow_redirects=False) as response:
            assert response.status == 401
        async with http.get(f"/?{link}", allow_redirects=False) as response:
            assert response.status == 303


async def test_a_token_beyond_its_rate_waits_and_others_do_not(database: Database) -> None:
    async with api_served(database, StubAgent(), requests_per_minute=3) as served:
        async with served.session("read") as greedy, served.session("read") as other:
            statuses = []
            for _ in range(5):
                async with greedy.get(f"{BASE}/runs") as response:
                    statuses.append(response.status)
            assert statuses == [200, 200, 200, 429, 429]
            assert 1 <= int(response.headers["Retry-After"]) <= 60
            async with other.get(f"{BASE}/runs") as response:
                assert response.status == 200
        assert served.page.listener.status.limited == 2


async def test_a_guesser_of_tokens_is_limited_and_the_right_token_is_not(database: Database) -> None:
    async with api_served(database, StubAgent(), dashboard={"attempts": 3}) as served:
        async with ClientSession(served.page.url) as http:
            for expected in (401, 401, 401, 429):
                async with http.get(f"{BASE}/runs", headers={"Authorization": "Bearer x"}) as response:
                    assert response.status == expected
        async with served.session("read") as http, http.get(f"{BASE}/runs") as response:
            assert response.status == 200


async def test_the_api_can_be_disabled(database: Database) -> None:
    fetched = {"Sec-Fetch-Mode": "cors"}
    async with (
        api_served(database, StubAgent(), enabled=False) as served,
        served.session("read") as http,
        http.get(f"{BASE}/runs", headers=fetched) as response,
    ):
        assert response.status == 401  # as any other path of the page


async def test_unknown_routes_and_methods_are_problems_too(database: Database) -> None:
    async with api_served(database, StubAgent()) as served, served.session("read") as http:
        async with http.get(f"{BASE}/nothing") as response:
            assert json.loads(await response.read())["type"] == "urn:tapewire:problem:no-route"
        async with http.put(f"{BASE}/runs") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
            assert response.content_type == problems.MEDIA_TYPE


# -- the file of tokens ----------------------------------------------------------------------------------


def test_the_file_holds_hashes_and_is_private(tmp_path: Path) -> None:
    registry = TokenRegistry(tmp_path / "tokens.json")
    token = registry.add("desk", [Scope.READ], 5)
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o600
    assert token.removeprefix("tapewire_") not in registry.path.read_text()
    found = registry.find(token, 6)
    assert found is not None
    assert (found.name, found.scopes) == ("desk", (Scope.READ,))
    registry.path.chmod(0o644)
    with pytest.raises(SafetyError, match="can be read by others"):
        registry.read()


def test_a_token_is_valid_until_it_expires(tmp_path: Path) -> None:
    registry = TokenRegistry(tmp_path / "tokens.json")
    token = registry.add("desk", [Scope.READ], 5, expires_at=10)
    assert registry.find(token, 9) is not None
    assert registry.find(token, 10) is None


def test_names_are_unique_and_their_number_is_limited(tmp_path: Path) -> None:
    registry = TokenRegistry(tmp_path / "tokens.json")
    for number in range(MAX_TOKENS):
        registry.add(f"t{number}", [Scope.READ], 0)
    for name, why in (("t5", "already"), ("a b", "can't name"), ("", "can't name"), ("more", "100 tokens")):
        with pytest.raises(UsageError, match=why):
            registry.add(name, [Scope.READ], 0)
    with pytest.raises(UsageError, match="did you mean t5"):
        registry.revoke("t5x")


@pytest.mark.parametrize("text", ["", "{", '{"tokens": [{"name": 1}]}', '{"tokens": 3}', "\xff"])
def test_with_a_damaged_file_no_token_is_valid(tmp_path: Path, text: str, quiet_log: None) -> None:
    registry = TokenRegistry(tmp_path / "tokens.json")
    token = registry.add("desk", [Scope.READ], 5)
    registry.path.write_text(text, encoding="latin-1")
    assert registry.find(token, 6) is None
    with pytest.raises(StoreError, match="damaged"):
        registry.read()


def test_the_command_line_adds_lists_and_revokes(tapewire: Callable[..., Outcome]) -> None:
    added = json.loads(tapewire("token", "add", "desk", "--scope", "read", "--expires", "90d", "--json").out)
    registry = TokenRegistry(Path("var/api-tokens.json"))
    assert registry.find(added["token"], added["expires_at"] - 1) is not None
    assert added["token"] not in tapewire("token", "list").out
    (listed,) = json.loads(tapewire("token", "list", "--json").out)["tokens"]
    assert (listed["name"], listed["scopes"], listed["expires_at"]) == ("desk", ["read"], added["expires_at"])
    assert tapewire("token", "add", "desk", "--scope", "read").code == 2
    assert "one of read, research, command" in tapewire("token", "add", "x", "--scope", "all").err
    assert tapewire("token", "revoke", "desk").code == 0
    assert registry.find(added["token"], 0) is None
    assert tapewire("token", "revoke", "desk").code == 2
