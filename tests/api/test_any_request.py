"""Whatever a request has in it: no status 500, and every response fits the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from yarl import URL

from agent.api import openapi
from agent.config import parse
from agent.jobs.job_queue import JobQueue
from agent.store.database import open_database
from tests.api.api_harness import StubAgent, api_served
from tests.cli.conftest import Outcome

DOCUMENT = openapi.document()
OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if operation["operationId"] not in ("getState", "streamChanges")  # which need an agent with a core
]
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "null", "0", "-1", "1e3", "BTCUSDT", "\0", "%", "x" * 400])
)
VALUES = st.one_of(
    TEXTS,
    st.integers(-(2**70), 2**70).map(str),
    st.integers(0, 2_000).map(str),
    st.sampled_from(["live", "running"]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def requests(
    draw: st.DrawFn, operations: Sequence[tuple[str, str, dict[str, Any]]]
) -> tuple[str, str, dict[str, Any], bytes | None]:
    """Draw an operation, a path with a query, and a body: partly valid, partly anything."""
    path, method, operation = draw(st.sampled_from(operations))
    run = draw(st.just("latest") | TEXTS.filter(lambda text: text not in ("", ".", "..")))
    names = [one["name"] for one in operation["parameters"] if one["in"] == "query"]
    wild = draw(st.integers(0, 3)) == 0
    known = st.sampled_from(names) if names else TEXTS
    most = 3 if names or wild else 0
    query = draw(st.lists(st.tuples(known | TEXTS if wild else known, VALUES), max_size=most))
    body = None
    if method == "post":
        action = st.sampled_from(["pause", "kill", "set-strategy", "use-model"])
        fields = st.fixed_dictionaries(
            {"action": action}, optional={"flatten": JSON, "params": JSON, "run": JSON}
        )
        kinds = st.sampled_from(["backtest", "sweep", "check-startup", "download", "import", "train"])
        texts = dict.fromkeys(("strategy", "params", "klines", "news", "symbol", "start", "limit"), JSON)
        job = st.fixed_dictionaries({"kind": kinds, "file": st.just("data/none.csv")}, optional=texts)
        raw = draw(
            st.one_of(
                st.binary(max_size=40), (fields | job | JSON).map(lambda value: json.dumps(value).encode())
            )
        )
        body = raw
    where = path.replace("{run}", quote(run, safe="", errors="replace"))
    where = where.replace("{job}", quote(run, safe="", errors="replace"))
    return f"{where}?{urlencode(query, errors='replace')}", method, operation, body


async def opened_queue() -> JobQueue:
    """The jobs of a server without a network; those that a request happens to start end with it."""
    return JobQueue(
        parse({"jobs": {"waiting": 3}, "bybit": {"endpoint": "http://127.0.0.1:9"}}, where="test")
    )


@pytest.mark.slow
def test_every_response_is_one_that_the_document_describes(backtested: Callable[..., Outcome]) -> None:
    seen: set[tuple[str, int]] = set()
    with (
        asyncio.Runner() as runner,
        closing(open_database("sqlite:///var/tapewire.db")) as database,
    ):
        stack = AsyncExitStack()
        server = api_served(
            database,
            StubAgent(),
            commands=True,
            requests_per_minute=1_000_000,
            jobs=runner.run(opened_queue()),
        )
        served = runner.run(stack.enter_async_context(server))

        async def session() -> Any:
            return await stack.enter_async_context(served.session("read", "research", "command"))

        http = runner.run(session())

        async def send(path: str, method: str, body: bytes | None) -> tuple[int, str, bytes]:
            url = URL(f"{served.page.url.rstrip('/')}{path}", encoded=True)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            async with http.request(method, url, data=body, headers=headers) as response:
                return response.status, response.content_type, await response.read()

        def check(request: tuple[str, str, dict[str, Any], bytes | None]) -> None:
            path, method, operation, body = request
            status, media, content = runner.run(send(path, method, body))
            assert status != 500
            described = operation["responses"].get(str(status), operation["responses"]["default"])
            if "$ref" in described:
                described = DOCUMENT["components"]["responses"]["Problem"]
            schema = described["content"][media]["schema"] | {"components": DOCUMENT["components"]}
            value = json.loads(content) if media.endswith("json") else content.decode()
            Draft202012Validator(schema).validate(value)
            seen.add((operation["operationId"], status))

        try:
            for one in OPERATIONS:  # each gets its share, which chance alone doesn't give
                settings(max_examples=12, deadline=None, database=None)(given(requests([one]))(check))()
        finally:
            runner.run(stack.aclose())
    assert {status for _, status in seen} >= {200, 400, 404}
    assert len({name for name, _ in seen}) == len(OPERATIONS)
