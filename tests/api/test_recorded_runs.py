"""Recorded runs through the API: the figures of the command line and the report, pages, ETags, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace

import tapewire as tw
from agent.analysis.report.report_loader import load_report_data
from agent.api import openapi
from agent.api.api_messages import Problem
from agent.api.route_table import BASE, ROUTES
from agent.core.errors import SafetyError, UsageError
from agent.core.events import Fill, News, Order, Sentiment, Signal
from agent.store.database import open_database
from agent.store.queries import read_frame, read_rows
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from tests.api.api_harness import Served, StubAgent, api_served
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.store.store_samples import T0

Tapewire = Callable[..., Outcome]
URL = "sqlite:///var/tapewire.db"
ROWS = ("trades", "orders", "fills", "signals", "news", "equity")


@asynccontextmanager
async def stored(agent: Any = None) -> AsyncIterator[Served]:
    with closing(open_database(URL)) as database:
        async with api_served(database, agent) as served:
            yield served


async def test_figures_of_the_api_the_command_line_and_the_report_are_the_same(backtested: Tapewire) -> None:
    listed = json.loads(backtested("runs", "--json").out)["runs"]
    told = json.loads(backtested("report", "--json").out)
    file = json.loads(Path(told["data"]).read_text())
    with closing(open_database(URL)) as database:
        data = load_report_data(database)
        run = data.run.id
        kinds: dict[str, Any] = {"orders": Order, "fills": Fill, "signals": Signal}
        recorded = {name: list(read_rows(database, run, kind)) for name, kind in kinds.items()}
        headlines = {news.id: news for news in read_rows(database, run, News)}
        scores = {one.news_id: one for one in read_rows(database, run, Sentiment)}
        equity = read_frame(database, run, "equity")
    async with stored() as served:
        found = await served.call(
            lambda client: {name: list(getattr(client, name)()) for name in (*ROWS, "runs")}
        )
        metrics = await served.call(lambda client: client.metrics())
        performance = await served.call(lambda client: client.performance())
        configuration = await served.call(lambda client: client.configuration())
        detail = await served.call(lambda client: client.run(run[:12]))
    shown = [json.loads(msgspec.json.encode(row)) for row in found["runs"]]
    assert [{key: row[key] for key in listed[0]} for row in shown] == listed
    assert json.loads(msgspec.json.encode(metrics.metrics)) == told["metrics"] == file["metrics"]
    assert metrics.recorded
    assert performance.metrics == metrics.metrics
    assert performance.trades.trades == metrics.metrics.trades.trades
    assert {one.role for one in configuration.inputs} == {one.role for one in data.run.inputs}
    assert detail.run == data.run
    trades = [entry.trade for entry in found["trades"]]
    assert len(trades) > 3
    assert sorted(trades, key=repr) == sorted(data.trades, key=repr)
    assert sum(trade.exit_ts is not None for trade in trades) == metrics.metrics.trades.trades
    for name, field in (("orders", "order"), ("fills", "fill"), ("signals", "signal")):
        assert [getattr(entry, field) for entry in found[name]] == recorded[name]
    assert {entry.order.id for entry in found["orders"] if entry.filled} == {
        fill.order_id for fill in recorded["fills"]
    }
    assert {entry.id: entry.title for entry in found["news"]} == {
        key: news.title for key, news in headlines.items()
    }
    assert {entry.id: entry.score.bullish for entry in found["news"] if entry.score} == {
        key: score.bullish for key, score in scores.items()
    }
    assert [point.equity for point in found["equity"]] == equity.equity.tolist()
    # the trades' profit by hand: what was sold minus what was bought, minus fees, of those that are closed
    by_hand = sum((fill.qty * fill.price * -fill.side.sign - fill.fee for fill in recorded["fills"]), start=0)
    if all(trade.exit_ts is not None for trade in trades):
        funding = sum(trade.funding for trade in trades)
        assert sum(trade.pnl for trade in trades) == by_hand + funding


@pytest.mark.parametrize("name", ROWS)
async def test_pages_are_the_whole_list_and_filters_select_from_it(backtested: Tapewire, name: str) -> None:
    async with stored() as served, served.session("read") as http:

        async def page(**query: Any) -> Any:
            async with http.get(f"{BASE}/runs/latest/{name}", params=query) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        whole = await page(limit=1_000)
        assert len(whole["items"]) > 3
        assert not whole["more"]
        rows, query = [], {"limit": max(2, len(whole["items"]) // 3)}
        while True:
            found = await page(**query)
            rows += found["items"]
            query["cursor"] = found["cursor"]
            if not found["more"]:
                break
        assert rows == whole["items"]
        assert query["cursor"] == whole["cursor"]
        assert (await page(cursor=whole["cursor"]))["items"] == []
        key, inner = {
            "trades": ("entry_ts", "trade"),
            "orders": ("ts", "order"),
            "fills": ("ts", "fill"),
            "signals": ("ts", "signal"),
            "news": ("available_at", ""),
            "equity": ("ts", ""),
        }[name]
        values = [row[inner] if inner else row for row in rows]
        middle = values[len(values) // 2][key]
        early, late = await page(until=middle, limit=1_000), await page(since=middle, limit=1_000)
        assert early["items"] == [r for r, v in zip(rows, values, strict=True) if v[key] < middle]
        assert late["items"] == [r for r, v in zip(rows, values, strict=True) if v[key] >= middle]
        if name != "equity":
            has = "symbols" if name == "news" else "symbol"
            some = await page(symbol="BTCUSDT", limit=1_000)
            assert some["items"] == [r for r, v in zip(rows, values, strict=True) if "BTCUSDT" in v[has]]


async def test_a_cursor_stays_right_while_rows_and_runs_are_added(tapewire: Tapewire) -> None:
    del tapewire  # its empty folder
    Path("var").mkdir()
    order = Order("o", "BTCUSDT", T0, "BUY", "MARKET", 1)  # type: ignore[arg-type]
    with closing(open_database(URL)) as database:

        def begin(name: str, at: int) -> Recorder:
            config = {"market": {"symbols": ["BTCUSDT"]}}
            recorder = Recorder(database, Run(name, RunKind.LIVE, at, "sma_cross", config=config))
            recorder.flush()
            return recorder

        def add(recorder: Recorder, *ids: str) -> None:
            for id_ in ids:
                recorder.event_seq += 1
                recorder.decision(msgspec.convert(msgspec.to_builtins(replace(order, id=id_)), Order))
            recorder.flush()

        first = begin("run-1", T0)
        begin("run-2", T0 + 1)
        add(first, "a", "b", "c")
        async with api_served(database) as served, served.session("read") as http:

            async def page(path: str, **query: Any) -> Any:
                async with http.get(f"{BASE}{path}", params=query) as response:
                    assert response.status == 200, await response.text()
                    assert "ETag" not in response.headers  # it may still grow
                    return await response.json()

            orders = await page("/runs/run-1/orders", limit=2)
            runs = await page("/runs", limit=1)
            assert [row["id"] for row in runs["items"]] == ["run-2"]
            add(first, "d")
            begin("run-3", T0 + 2)
            rest = await page("/runs/run-1/orders", cursor=orders["cursor"])
            assert [row["order"]["id"] for row in rest["items"]] == ["c", "d"]
            add(first, "e")  # a client that has read to the end continues there
            news = await page("/runs/run-1/orders", cursor=rest["cursor"])
            assert [row["order"]["id"] for row in news["items"]] == ["e"]
            older = await page("/runs", cursor=runs["cursor"])
            assert [row["id"] for row in older["items"]] == ["run-1"]


@pytest.mark.parametrize("part", ["", "/trades", "/news?limit=3", "/metrics", "/equity"])
async def test_an_unchanged_run_is_not_sent_again(backtested: Tapewire, part: str) -> None:
    async with stored() as served, served.session("read") as http:

        async def get(tag: str = "", path: str = part) -> tuple[int, str, bytes]:
            headers = {"If-None-Match": tag} if tag else {}
            async with http.get(f"{BASE}/runs/latest{path}", headers=headers) as response:
                return response.status, response.headers["ETag"], await response.read()

        status, tag, body = await get()
        assert (status, bool(body)) == (200, True)
        assert await get(tag) == (304, tag, b"")
        assert (await get(f'"other", W/{tag}'))[0] == 304
        assert (await get('"other"'))[0] == 200
        assert (await get(tag, "/trades?limit=7"))[0] == 200
        run = json.loads(backtested("runs", "--json").out)["runs"][0]["id"]
        backtested("runs", "tag", run, "best")
        assert (await get(tag))[0] == (200 if not part else 304)


@pytest.mark.parametrize(
    ("path", "kind", "where", "said"),
    [
        ("/runs?limti=3", "unknown-parameter", "limti", "did you mean limit?"),
        ("/runs?limit=0", "invalid-parameter", "limit", ">= 1"),
        ("/runs?limit=1001", "invalid-parameter", "limit", "<= 1000"),
        ("/runs?limit=ten", "invalid-parameter", "limit", "not a whole number"),
        ("/runs?limit=-1", "invalid-parameter", "limit", "not a whole number"),
        ("/runs?limit=1&limit=2", "invalid-parameter", "limit", "given 2 times"),
        ("/runs?since=null", "invalid-parameter", "since", "not a whole number"),
        ("/runs?since=99999999999999999", "invalid-parameter", "since", "not a whole number"),
        ("/runs?kind=forward", "invalid-parameter", "kind", "forward"),
        ("/runs?tag=", "invalid-parameter", "tag", "length >= 1"),
        ("/runs?cursor=AAAA", "invalid-parameter", "cursor", "no page of this list"),
        ("/runs?cursor=!", "invalid-parameter", "cursor", "matching regex"),
        ("/runs/latest/fills?symbol=a%20b", "invalid-parameter", "symbol", "matching regex"),
        ("/runs/latest/fills?symbol=BTCUSD", "invalid-parameter", "symbol", "did you mean BTCUSDT?"),
        ("/runs/latest/news?symbol=DOGEUSDT", "invalid-parameter", "symbol", "it trades BTCUSDT"),
        ("/runs/latest/equity?symbol=BTCUSDT", "unknown-parameter", "symbol", "it has since"),
        ("/runs/latest?x=1", "unknown-parameter", "x", "the route has none"),
        ("/runs/none/fills", "no-run", "", "the newest: 2"),
        ("/runs/%00/fills", "no-run", "run", "such an id"),
        ("/runs/%ff/fills?%ff=%fe", "unknown-parameter", "\ufffd", ""),
        ("/state", "no-agent", "", "only has recorded runs"),
        ("/events", "no-agent", "", "only has recorded runs"),
    ],
)
async def test_an_error_states_what_was_wrong_where_and_what_would_be_right(
    backtested: Tapewire, path: str, kind: str, where: str, said: str
) -> None:
    async with stored() as served, served.session("read") as http:
        async with http.get(f"{served.page.url.rstrip('/')}{BASE}{path}") as response:
            problem = msgspec.json.decode(await response.read(), type=Problem)
        assert problem.type == f"urn:tapewire:problem:{kind}"
        assert problem.status == response.status
        assert where.lower() in problem.where.lower()
        assert said in f"{problem.detail} {problem.hint}"


JOB_ROUTES = ("listJobs", "getJob", "listData", "listStrategies", "getStrategy")


async def test_every_response_fits_its_schema(backtested: Tapewire) -> None:
    document = openapi.document()
    async with stored(StubAgent()) as served, served.session("read") as http:
        for route in ROUTES:
            if route.method == "POST" or route.stream or route.name == "getState":
                continue
            if route.name in JOB_ROUTES:  # test_jobs has them
                continue
            async with http.get(f"{BASE}{route.path.replace('{run}', 'latest')}") as response:
                assert response.status == 200
                assert response.content_type == route.media
                value = await (response.json() if route.media == "application/json" else response.text())
            operation = document["paths"][f"{BASE}{route.path}"]["get"]
            schema = operation["responses"]["200"]["content"][route.media]["schema"]
            Draft202012Validator(schema | {"components": document["components"]}).validate(value)


def test_the_document_in_docs_is_current() -> None:
    assert (ROOT / "docs/openapi.json").read_text(encoding="utf-8") == openapi.text(), (
        "python -m agent.api.openapi > docs/openapi.json"
    )


def test_the_document_has_every_route_and_resolves() -> None:
    document = openapi.document()
    listed = {(path, method) for path, item in document["paths"].items() for method in item}
    assert listed == {(f"{BASE}{route.path}", route.method.lower()) for route in ROUTES}
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in _references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert not [route.path for route in ROUTES if f"`{route.method} {route.path}`" not in page]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


# -- the client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://bot.example", SafetyError),
        ("http://192.0.2.7:8610", SafetyError),
        ("ftp://127.0.0.1", UsageError),
        ("127.0.0.1:8610", UsageError),
        ("http://user:secret@127.0.0.1", UsageError),
    ],
)
def test_the_client_sends_no_token_in_the_clear_to_another_machine(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        tw.Client(url, "x")


async def test_the_client_raises_what_the_server_stated(backtested: Tapewire) -> None:
    async with stored() as served:

        def ask(client: tw.Client) -> None:
            client.run("nothing")

        with pytest.raises(tw.ApiError, match="no run 'nothing'") as raised:
            await served.call(ask)
        assert (raised.value.status, raised.value.problem is not None) == (404, True)
        with pytest.raises(tw.ApiError, match="has no scope read"):
            await served.call(ask, ["command"])
        assert "tapewire_" not in repr(vars(tw.Client(served.page.url, "tapewire_secret")))
    with pytest.raises(tw.ApiError, match="check the address"):
        await asyncio.to_thread(ask, tw.Client(served.page.url, "x"))
