"""The report of a run at a venue has its twin, or says why not; of a run on paper it has no such section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from agent.analysis.report.html import render
from agent.analysis.twin_parts import exact
from agent.analysis.twin_report import attribute_run
from agent.config import parse
from agent.replay.backtest import backtest
from agent.replay.complete_report import load_complete_report
from agent.replay.history import History, Plan
from agent.replay.recorded_inputs import load_inputs
from agent.replay.twin import fold_twin
from agent.research.story_results import story_results
from agent.store.database import Database, open_database
from tests.live.gateway.churning_strategy import churn
from tests.support.live import SAMPLES, Words
from tests.support.recorded_venue import Venue, configuration, record


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        yield database


def amounts(section: str) -> list[str]:
    return re.findall(r'<tr[^>]*><th scope="row">[^<]*</th><td class="n">(?:<span[^>]*>)?([^<]+)', section)


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("−", "-"))


def test_the_report_of_a_run_at_a_venue_leads_from_its_twin_to_the_venue(database: Database) -> None:
    venue = Venue(rules={"taker_fee": "0.0011", "half_spread_bps": 2.5}, reject=9)
    run = record(database, configuration(("BTCUSDT",), churn()), venue, minutes=25)
    data = load_complete_report(database, run.id, trust_strategy=True)
    expected = attribute_run(fold_twin(database, run, trust_strategy=True))
    assert data.twin == expected
    assert data.twin.decided_anew
    page = render(data)
    section = page[page.index('<section id="twin">') :]
    section = section[: section.index("</section>")]
    chart = section[: section.index("</table>")]
    shown = [number(text) for text in amounts(chart)]
    parts = [amount for amount in expected.causes.values() if amount]
    assert shown[0] == round(expected.twin_equity, 2)
    assert shown[-1] == round(expected.venue_equity, 2)
    assert shown[1:-1] == [round(amount, 2) for amount in parts]
    with exact():
        assert expected.twin_equity + sum(parts, Decimal(0)) == expected.venue_equity
    assert "The first decision that differs: BTCUSDT" in section
    assert expected.days[0].day in section
    largest = max(expected.orders, key=lambda order: abs(order.difference))
    assert f"{float(largest.difference):+,.2f}".replace("-", "−") in section
    assert msgspec.json.decode(msgspec.json.encode(data))["twin"]["run"] == run.id


def test_a_twin_that_fails_is_named_with_its_reason(database: Database) -> None:
    run = record(database, configuration(("BTCUSDT",), churn()), minutes=10)
    data = load_complete_report(database, run.id)
    assert data.twin is not None
    assert any("nothing was decided anew" in note for note in data.twin.notes)
    missing = msgspec.structs.replace(data, twin=None, absent_twin="no <bars>")
    assert "Not available: no &lt;bars&gt;" in render(missing)


def test_a_run_on_paper_has_no_empty_section_and_its_stories_if_they_are_computed(database: Database) -> None:
    klines = ((SAMPLES / "BTCUSDT-1m.csv", None), (SAMPLES / "ETHUSDT-1m.csv", None))
    config = parse({"strategy": {"name": "sentiment"}}, where="test")
    run = backtest(History(Plan(klines, SAMPLES / "headlines.csv"), config), database, scorer=Words()).run
    data = load_complete_report(database, run.id)
    page = render(data)
    assert "against the twin" not in page
    assert "earned or lost" not in page
    found = story_results(load_inputs(database, run))
    page = render(msgspec.structs.replace(data, stories=found))
    section = page[page.index('<section id="stories">') :]
    best = found.stories[0]
    assert f"{float(best.contribution):+,.2f}".replace("-", "−") in section
    assert f"of {len(found.stories)} stories that voted changed the result" in section
