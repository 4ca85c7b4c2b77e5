"""The state of the page equals the engine's, and its changes add up to the whole."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import (
    AccountSnapshot,
    AssetSentiment,
    Command,
    Direction,
    Event,
    Kline,
    Notice,
    Order,
    OrderType,
    PositionSnapshot,
    Prediction,
    Side,
    Signal,
)
from agent.dashboard.dashboard_state import HEADLINES, NO_VERSION, DashboardState
from agent.dashboard.page_rows import VersionedRows, run_header
from agent.data.provenance import MAX_REASON
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.runs import Run, RunKind
from tests.core.test_venue import SYMBOL, T0, EngineHarness
from tests.dashboard.dashboard_harness import ANY_PORT, FakeAgent, answered, bar, headline, scored
from tests.support.live import handled, living, load_words, settings, until

STEPS = st.lists(st.one_of(st.integers(0, 5), st.none()), max_size=40)


@given(STEPS)
def test_reading_changes_misses_no_row_and_repeats_none(steps: list[int | None]) -> None:
    """In `steps`, a number changes the row with that key, None reads the changes."""
    rows: VersionedRows[int, tuple[int, int]] = VersionedRows(4)
    kept: OrderedDict[int, tuple[int, int]] = OrderedDict()
    seen = version = 0
    for step in [*steps, None]:
        if step is None:
            changes = rows.since(seen)
            assert len({key for key, _ in changes}) == len(changes)
            assert all(changed_at > seen for _, changed_at in changes)
            for key, changed_at in changes:
                kept[key] = key, changed_at
                kept.move_to_end(key)
            seen = version
        else:
            version += 1
            rows.put(step, (step, version), version)
    assert list(kept.values())[-len(rows) :] == rows.since(NO_VERSION) if len(rows) else not kept


def test_the_number_of_rows_is_bounded() -> None:
    agent = FakeAgent(bars=50)
    agent.feed(*(bar(number) for number in range(200)), *(headline(number, "ether") for number in range(500)))
    page = agent.state.changes(NO_VERSION, "BTCUSDT")
    assert [len(page["bars"]["rows"]), len(page["headlines"])] == [50, HEADLINES]
    assert page["bars"]["rows"][-1].start == bar(199).start


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://wire.example/a?b=c", "https://wire.example/a?b=c"),
        ("http://wire.example", "http://wire.example"),
        ("javascript:alert(1)", ""),
        ("JaVaScRiPt:alert(1)", ""),
        ("data:text/html,<script>", ""),
        ("//wire.example", ""),
        ("https://[", ""),
        ("https://wire.example/" + "x" * 5_000, ""),
    ],
)
def test_a_headline_links_only_to_web_urls(url: str, link: str) -> None:
    agent = FakeAgent()
    agent.feed(headline(1, "bitcoin", url))
    assert agent.state.changes()["headlines"][0].url == link


def test_a_headline_is_clipped_to_one_line_without_control_characters() -> None:
    agent = FakeAgent()
    agent.feed(headline(1, "up\u202edlos\u2066 \x1b[31m\n<b>bitcoin</b> " + "x" * 10_000))
    title = agent.state.changes()["headlines"][0].title
    assert title.startswith("updlos [31m <b>bitcoin</b> xxx")
    assert title.endswith("…")
    assert len(title) == 300


BOTH_WAYS = (AssetSentiment("BTC", 0.8, 0.1, 0.1), AssetSentiment("ETH", 0.1, 0.2, 0.7))


@pytest.mark.parametrize(
    ("assets", "kind", "abstained", "shown"),
    [
        (BOTH_WAYS, "price", False, ([("BTC", 0.8, 0.1, 0.1), ("ETH", 0.1, 0.2, 0.7)], "price", 0.9)),
        ((), "macro", False, ([], "macro", 0.9)),
        ((), "", False, ([], "", 0.0)),
        (BOTH_WAYS, "price", True, ([], "", 0.0)),  # the answers of an abstention have no meaning
    ],
)
def test_a_headline_has_the_answers_for_its_assets_and_its_kind(
    assets: tuple[AssetSentiment, ...], kind: str, abstained: bool, shown: tuple[Any, ...]
) -> None:
    agent = FakeAgent()
    news = headline(1, "ether gains on bitcoin")
    agent.feed(news, scored(news, *assets, kind=kind, abstained=abstained))
    opinion = agent.state.changes()["headlines"][0].opinion
    assert ([tuple(row) for row in opinion.assets], opinion.kind, opinion.kind_confidence) == shown


BULL, BEAR = (0.1, 0.07, 0.83), (0.71, 0.2, 0.09)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (BEAR, BULL, (0.83, 0.09, False)),
        (BULL, BULL, (0.83, 0.83, False)),
        (None, BULL, (0.83, 1 / 3, False)),
        (BEAR, None, (0.09, None, True)),  # an abstention replaces nothing
    ],
)
def test_a_revision_replaces_the_answer_and_names_the_first(
    before: tuple[float, float, float] | None,
    after: tuple[float, float, float] | None,
    shown: tuple[float, float | None, bool],
) -> None:
    agent = FakeAgent()
    news = headline(1, "bitcoin")
    agent.feed(news, answered(news, before, 250, provisional=True))
    (row,) = agent.state.changes()["headlines"]
    assert (row.first, row.kept, row.opinion.provisional) == (None, False, True)
    version = agent.state.version
    agent.feed(answered(news, after, 5_000))
    (row,) = agent.state.changes(version)["headlines"]
    assert (row.opinion.bullish, row.first and row.first.bullish, row.kept) == shown


def test_the_reason_of_a_language_model_is_one_line_of_text() -> None:
    agent = FakeAgent()
    news = headline(1, "bitcoin")
    agent.feed(news, answered(news, BULL, 250, reason="up\u202e <b>because</b>\n" + "x" * 10_000))
    reason = agent.state.changes()["headlines"][0].opinion.reason
    assert reason.startswith("up <b>because</b> x")
    assert len(reason) <= MAX_REASON
    assert reason.isprintable()


def test_a_message_of_the_strategy_and_a_trailing_stop_are_shown() -> None:
    agent = FakeAgent()
    agent.feed(bar(1))
    at, qty = bar(1).ts, Decimal("0.1")
    kind, trail = OrderType.TRAILING_STOP, Decimal(600)
    stop = Order(
        "o1", "BTCUSDT", at, Side.SELL, kind, qty, trigger=Decimal(49_400), reduce_only=True, trail=trail
    )
    for decision in (stop, Notice(at, "warning", "volume is thin")):
        agent.state.decision(1, decision)
    page = agent.state.changes()
    assert (page["acts"][-1].what, page["acts"][-1].text) == ("notice", "warning: volume is thin")
    assert [(row.type, row.trail) for row in page["orders"]] == [("TRAILING_STOP", trail)]


def test_texts_of_a_workers_answer_are_clipped_to_one_line() -> None:
    agent = FakeAgent()
    news = headline(1, "bitcoin")
    agent.feed(news, scored(news, AssetSentiment("B\n\x1b" + "T" * 5_000, 0.8, 0.1, 0.1), kind="k\n" * 900))
    opinion = agent.state.changes()["headlines"][0].opinion
    for text in (opinion.assets[0].asset, opinion.kind):
        assert len(text) <= 20
        assert text.isprintable()


@pytest.mark.parametrize("kind", ["access", ""])
def test_a_signal_has_the_kind_of_the_last_headline_that_voted(kind: str) -> None:
    agent = FakeAgent()
    agent.feed(bar(1))
    voted = Signal("ETHUSDT", bar(1).start, Direction.BUY, 0.7, 0.1, 0.2, 0.7, True, ("n1",), kind)
    agent.state.decision(1, voted)
    page = agent.state.changes()
    (row,) = (row for row in page["market"] if row.symbol == "ETHUSDT")
    assert row.signal.kind == kind
    assert page["acts"][-1].text == f"BUY 0.70{', access news' if kind else ''}"


def assert_equals_engine(state: DashboardState, daemon: Daemon) -> None:
    engine = daemon.pipeline.engine
    account, ledger = state.account(), engine.portfolio
    assert account.event == daemon.pipeline.journal.last_seq
    assert account.equity == pytest.approx(ledger.equity(), abs=1e-9)
    assert (account.fees, account.funding, account.realised) == (ledger.fees, ledger.funding, ledger.realised)
    assert (account.risk, account.rule, account.since) == (
        engine.risk.state,
        engine.risk.rule,
        engine.risk.since,
    )
    assert state.positions() == {position.symbol: position.qty for position in ledger.open}
    working = {row.id for row in state.changes()["orders"]}
    assert working == {order.order.id for tape in engine.states.values() for order in tape.book}


@pytest.mark.slow
async def test_the_state_equals_the_engines_account_also_after_a_restart(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, dashboard=ANY_PORT)
    for attempt in range(2):
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        states: list[DashboardState] = []

        def observe(run: Run, states: list[DashboardState] = states) -> DashboardState:
            states.append(DashboardState(run_header(run, config), config))
            return states[0]

        daemon.observe_run(observe)
        async with living(daemon):
            await until(lambda: handled(daemon) > 40)  # noqa: B023
            await daemon.command("pause", by="test")
        assert_equals_engine(states[0], daemon)
        assert states[0].account().fills, attempt


def test_only_what_changed_is_sent() -> None:
    agent = FakeAgent()
    agent.feed(bar(1))
    seen = agent.state.version
    agent.state.decision(1, Prediction("ETHUSDT", bar(1).available_at, 0.2, 0.3, 0.5))
    changes = agent.state.changes(seen)
    assert [(row.symbol, row.prediction.up) for row in changes["market"]] == [("ETHUSDT", 0.5)]
    assert set(changes) == {"version", "account", "market"}
    assert agent.state.changes(changes["version"]) == {"version": changes["version"]}


@pytest.mark.parametrize("states_cash", [True, False])
def test_at_a_venue_the_equity_follows_the_ledger_after_drift_is_accepted(states_cash: bool) -> None:
    """The account starts with 10,250 USDT. Someone else then buys 3 BTC at 90 (mark 100) and spends 10.

    After `resume` the equity is 10,240 + 30. Earlier versions recorded no changes of cash, so the page
    derives them from the account snapshots.
    """
    harness = EngineHarness(states_cash=states_cash)
    config = harness.config
    state = DashboardState(
        run_header(Run("run", RunKind.LIVE, 0, "sma_cross", config=config.persisted()), config), config
    )
    harness.exchange.opened = False
    harness.sink.decisions.clear()
    numbers = count(1)
    state.event(
        next(numbers),
        Command("life", T0, T0, {"incarnation": "a", **({"cash": "stated"} if states_cash else {})}),
    )

    def feed(*events: Event) -> None:
        for event in events:
            number = next(numbers)
            state.event(number, event)
            for decision in harness.handle(event):
                state.decision(number, decision)

    def account(usdt: str, *held: PositionSnapshot) -> AccountSnapshot:
        return AccountSnapshot(harness.now, harness.now, {"USDT": Decimal(usdt)}, held)

    feed(Kline(SYMBOL, 60_000, T0, T0 + 60_000, T0 + 60_000, 100, 100, 100, 100, 1))
    feed(account("10250"))
    assert state.account().equity == harness.engine.portfolio.equity() == 10_250
    held = PositionSnapshot(SYMBOL, Decimal(3), Decimal(90))
    feed(
        account("10240", held),
        account("10240", held),
        Command("resume", harness.now, harness.now, {}, "test"),
        account("10240", held),
    )
    assert state.account().equity == harness.engine.portfolio.equity() == 10_270
