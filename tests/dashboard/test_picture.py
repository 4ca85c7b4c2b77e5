"""The page's state is a fold: equal to the engine's own, the same in pieces as at once, the same in the past as it was live."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import parse
from agent.core.events import AccountSnapshot, Command, Event, Kline, PositionSnapshot, Prediction
from agent.dashboard.picture import HEADLINES, NOTHING, Picture
from agent.dashboard.push import encode
from agent.dashboard.recording import Recording
from agent.dashboard.rows import Rows
from agent.dashboard.views import head_of
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run
from agent.store.runs import Run, RunKind
from tests.core.test_venue import SYMBOL, T0, World
from tests.dashboard.world import ANY_PORT, Puppet, bar, headline
from tests.support.live import SAMPLES, SENTIMENT, SYMBOLS, handled, living, load_words, settings, until

STEPS = st.lists(st.one_of(st.integers(0, 5), st.none()), max_size=40)


@given(STEPS)
def test_who_asks_for_what_is_new_misses_nothing_and_gets_nothing_twice(steps: list[int | None]) -> None:
    """A number puts that row, None asks."""
    rows: Rows[int, tuple[int, int]] = Rows(4)
    kept: OrderedDict[int, tuple[int, int]] = OrderedDict()
    seen = version = 0
    for step in [*steps, None]:
        if step is None:
            news = rows.since(seen)
            assert len({key for key, _ in news}) == len(news)
            assert all(stamp > seen for _, stamp in news)
            for key, stamp in news:
                kept[key] = key, stamp
                kept.move_to_end(key)
            seen = version
        else:
            version += 1
            rows.put(step, (step, version), version)
    assert list(kept.values())[-len(rows) :] == rows.since(NOTHING) if len(rows) else not kept


def test_what_is_kept_is_bounded() -> None:
    puppet = Puppet(bars=50)
    puppet.hear(
        *(bar(number) for number in range(200)), *(headline(number, "ether") for number in range(500))
    )
    assert puppet.picture is not None
    page = puppet.picture.changes(NOTHING, "BTCUSDT")
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
def test_a_headline_links_to_the_web_or_nowhere(url: str, link: str) -> None:
    puppet = Puppet()
    puppet.hear(headline(1, "bitcoin", url))
    assert puppet.picture is not None
    assert puppet.picture.changes()["headlines"][0].url == link


def test_a_headline_is_one_clipped_line_without_controls() -> None:
    puppet = Puppet()
    puppet.hear(headline(1, "up\u202edlos\u2066 \x1b[31m\n<b>bitcoin</b> " + "x" * 10_000))
    assert puppet.picture is not None
    title = puppet.picture.changes()["headlines"][0].title
    assert title.startswith("updlos [31m <b>bitcoin</b> xxx")
    assert title.endswith("…")
    assert len(title) == 300


def assert_as_the_engine_has_it(picture: Picture, daemon: Daemon) -> None:
    engine = daemon.core.engine
    account, book = picture.account(), engine.portfolio
    assert account.event == daemon.core.journal.last_seq
    assert account.equity == pytest.approx(book.equity(), abs=1e-9)
    assert (account.fees, account.funding, account.realised) == (book.fees, book.funding, book.realised)
    assert (account.risk, account.rule, account.since) == (
        engine.risk.state,
        engine.risk.rule,
        engine.risk.since,
    )
    assert picture.positions() == {position.symbol: position.qty for position in book.open}
    working = {row.id for row in picture.changes()["orders"]}
    assert working == {order.order.id for tape in engine.states.values() for order in tape.book}


async def test_the_picture_is_the_engines_own_account_and_after_a_restart_too(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, dashboard=ANY_PORT)
    for life in range(2):
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        pictures: list[Picture] = []

        def witness(run: Run, pictures: list[Picture] = pictures) -> Picture:
            pictures.append(Picture(head_of(run, config), config))
            return pictures[0]

        daemon.observe_run(witness)
        async with living(daemon):
            await until(lambda: handled(daemon) > 40)  # noqa: B023
            await daemon.command("pause", by="test")
        assert_as_the_engine_has_it(pictures[0], daemon)
        assert pictures[0].account().fills, life


class Snapshots(Picture):
    """Remembers the page at each moment of the market, as it was before the next one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pages: dict[int, bytes] = {}

    def event(self, seq: int, event: Event) -> None:
        if event.available_at > self.now:
            self.pages[self.now] = page_of(self)
        super().event(seq, event)


def page_of(picture: Picture) -> bytes:
    return encode(picture.changes(NOTHING, "ETHUSDT"))


async def test_a_recorded_run_shows_each_moment_as_it_was_live(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, dashboard=ANY_PORT, strategy=SENTIMENT)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    seen: list[Snapshots] = []

    def witness(run: Run) -> Picture:
        seen.append(Snapshots(head_of(run, config), config))
        return seen[0]

    daemon.observe_run(witness)
    async with living(daemon, complete=True):
        await until(lambda: handled(daemon) > 120)
        await daemon.command("kill", {"flatten": "true"}, by="test")
        await until(lambda: not daemon.core.engine.portfolio.open)
    live = seen[0]
    recording = Recording(database, find_run(database, daemon.core.run.id))
    recording.open()
    try:
        assert recording.ends == live.now
        assert {mark.what for mark in recording.marks} >= {"fill", "risk", "command"}
        moments = [moment for moment in live.pages if moment >= recording.begins]
        for moment in moments[:: max(len(moments) // 40, 1)]:
            assert encode(recording.at(moment, "ETHUSDT")) == live.pages[moment], moment
        assert encode(recording.at(recording.ends, "ETHUSDT")) == page_of(live)
    finally:
        recording.close()


def test_a_backtest_is_moved_through_too(database: Database) -> None:
    config = parse({"strategy": {"name": "sma_cross"}}, where="test")
    plan = Plan(klines=tuple((SAMPLES / f"{symbol}-1m.csv", symbol) for symbol in SYMBOLS))
    run = backtest(History(plan, config), database).run
    recording = Recording(database, run)
    recording.open(bars=20)
    try:
        pages = [
            recording.picture(recording.begins + share * (recording.ends - recording.begins) // 4)
            for share in range(5)
        ]
        assert [page.account().fills for page in pages] == sorted({page.account().fills for page in pages})
        end = pages[-1].account()
        assert end.event == run.events
        assert end.equity == pytest.approx(float(run.final_equity or 0))
        assert end.fills == len([mark for mark in recording.marks if mark.what == "fill"])
    finally:
        recording.close()


def test_the_last_word_on_a_symbol_is_shown_beside_it() -> None:
    puppet = Puppet()
    puppet.hear(bar(1))
    assert puppet.picture is not None
    seen = puppet.picture.version
    puppet.picture.decision(1, Prediction("ETHUSDT", bar(1).available_at, 0.2, 0.3, 0.5))
    news = puppet.picture.changes(seen)
    assert [(row.symbol, row.prediction.up) for row in news["market"]] == [("ETHUSDT", 0.5)]
    assert set(news) == {"version", "account", "market"}  # what did not change is not sent again
    assert puppet.picture.changes(news["version"]) == {"version": news["version"]}


@pytest.mark.parametrize("states_cash", [True, False])
def test_at_a_venue_the_page_has_the_ledgers_equity_after_a_person_has_accepted_the_account(
    states_cash: bool,
) -> None:
    """Begun with 10,250 USDT; others then hold 3 BTC at 90 (mark 100) and spend 10: accepted, all of it is 10,240 + 30.

    A life of an earlier version recorded no changes of cash: then the page derives them from the accounts.
    """
    world = World(states_cash=states_cash)
    config = world.engine._config
    picture = Picture(
        head_of(Run("run", RunKind.LIVE, 0, "sma_cross", config=config.recorded()), config), config
    )
    world.ledger.opened = False
    world.sink.decisions.clear()
    numbers = count(1)
    picture.event(
        next(numbers),
        Command("life", T0, T0, {"incarnation": "a", **({"cash": "stated"} if states_cash else {})}),
    )

    def tell(*events: Event) -> None:
        for event in events:
            number = next(numbers)
            picture.event(number, event)
            for decision in world.tell(event):
                picture.decision(number, decision)

    def account(usdt: str, *held: PositionSnapshot) -> AccountSnapshot:
        return AccountSnapshot(world.now, world.now, {"USDT": Decimal(usdt)}, held)

    tell(Kline(SYMBOL, 60_000, T0, T0 + 60_000, T0 + 60_000, 100, 100, 100, 100, 1))
    tell(account("10250"))
    assert picture.account().equity == world.engine.portfolio.equity() == 10_250
    held = PositionSnapshot(SYMBOL, Decimal(3), Decimal(90))
    tell(
        account("10240", held),
        account("10240", held),
        Command("resume", world.now, world.now, {}, "test"),
        account("10240", held),
    )
    assert picture.account().equity == world.engine.portfolio.equity() == 10_270
