"""The report judges each symbol by the model's answer for its own asset, and headlines by their kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.analysis.report.html import render
from agent.analysis.report.report_data import ReportData
from agent.analysis.report.report_loader import load_report_data
from agent.core.events import AssetSentiment
from tests.analysis.stored import record_run
from tests.analysis.test_report import Page

HOURS = 24 * 30
BTC_DOWN = AssetSentiment("BTC", 0.8, 0.1, 0.1)
ETH_UP = AssetSentiment("ETH", 0.05, 0.05, 0.9)
HOSTILE = "<img src=x>"


def recorded(folder: Path, *answers: AssetSentiment, kinds: tuple[str, ...] = ("",)) -> ReportData:
    return load_report_data(record_run(folder, hours=HOURS, headlines=200, answers=answers, kinds=kinds))


def test_a_headline_that_is_bad_for_one_symbol_and_good_for_another_is_judged_both_ways(
    tmp_path: Path,
) -> None:
    """100 stories are bearish for BTC and bullish for ETH, whatever the headline as a whole is."""
    data = recorded(tmp_path, BTC_DOWN, ETH_UP)
    study = data.evidence.event_study
    assert study is not None
    assert study.classes.keys() == {"bearish", "bullish"}
    assert sum(path.events for path in study.classes.values()) + study.left_out == 200
    assert study.classes["bearish"].events == study.classes["bullish"].events
    for symbol, predicted, confidence in (("BTCUSDT", "bearish", 0.8), ("ETHUSDT", "bullish", 0.9)):
        assert {(mark.predicted, mark.confidence) for mark in data.marks[symbol]} == {(predicted, confidence)}
    assert data.evidence.kinds is None


def test_a_symbol_without_an_answer_of_its_own_is_judged_by_the_headline(tmp_path: Path) -> None:
    data = recorded(tmp_path, ETH_UP, kinds=("macro",))
    assert {mark.predicted for mark in data.marks["BTCUSDT"]} == {"bearish", "bullish"}
    assert {mark.predicted for mark in data.marks["ETHUSDT"]} == {"bullish"}
    found = data.evidence.kinds
    assert found is not None
    assert (found.headlines, found.own) == (200, 100)


def test_the_page_shows_a_table_by_kind_of_news(tmp_path: Path) -> None:
    data = recorded(tmp_path, BTC_DOWN, ETH_UP, kinds=("price", "failure", HOSTILE, ""))
    found = data.evidence.kinds
    assert found is not None
    assert {kind: path.headlines for kind, path in found.kinds.items()} == {
        "failure": 50,
        "price": 50,
        HOSTILE: 50,
        "": 50,
    }
    assert [mark.kind for mark in data.marks["BTCUSDT"][:4]] == ["price", "failure", HOSTILE, ""]
    html = render(data)
    page = Page(html)
    text = " ".join(page.text.split())
    assert "Price moves by kind of news Of 200 scores" in text
    for words in ("With direction", "1h before", "1h after", "4h after", "1d after", "unknown kind"):
        assert words in text
    assert HOSTILE in text
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert HOSTILE in [kind for *_, kind, _, _ in page.data["figures"]["price-BTCUSDT"]["headlines"]]
    assert "<img" not in html


@pytest.mark.parametrize("answers", [(), (BTC_DOWN, ETH_UP)])
def test_a_run_without_kinds_has_no_such_table(tmp_path: Path, answers: tuple[AssetSentiment, ...]) -> None:
    page = Page(render(recorded(tmp_path, *answers)))
    assert "by kind of news" not in page.text
