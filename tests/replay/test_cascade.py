"""Backtests with a model that revises the answers of another one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agent.analysis.report.html import render
from agent.analysis.report.report_loader import load_report_data
from agent.config import Config, parse
from agent.core.errors import ConfigError, LeakageError
from agent.core.events import Fill, News, Provenance, Sentiment, Signal
from agent.data.cascade import CascadeScorer, models_of, revise_news
from agent.data.merge import merge
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.verify import verify
from agent.research.replay_inputs import configured_scoring
from agent.research.replay_window import LoadedWindow
from agent.store.database import open_database
from agent.store.queries import read_decisions, read_rows
from models.sentiment.serve.headline_score import HeadlineScore
from tests.models.tiny_model import write_tiny
from tests.support.live import SAMPLES, Words

PLAN = Plan(
    ((SAMPLES / "BTCUSDT-1m.csv", None), (SAMPLES / "ETHUSDT-1m.csv", None)), SAMPLES / "headlines.csv"
)


class Contrary(Words):
    """Reads each headline the other way round."""

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        return [HeadlineScore(one.bullish, one.neutral, one.bearish) for one in super().score(texts)]


def settings(folder: Path, **sections: object) -> Config:
    return parse(
        {
            "strategy": {"name": "sentiment", "params": {"position_size": 0.5, "allow_short": True}},
            "store": {"url": f"sqlite:///{folder / 'store.db'}"},
            **sections,
        },
        where="test",
    )


def test_a_backtest_with_revisions_is_recorded_and_verified_without_a_model(tmp_path: Path) -> None:
    history = History(PLAN, settings(tmp_path))
    with closing(open_database(history.config.store.url)) as database:
        alone = backtest(history, database, scorer=Words("fast"))
        done = backtest(history, database, scorer=CascadeScorer(Words("fast"), Contrary("slow")))
        rows = list(read_rows(database, done.run.id, Sentiment))
        first = {one.news_id: one for one in rows if one.model == "fast"}
        revisions = [one for one in rows if one.model == "slow"]
        assert len(first) == len(history.news)
        assert revisions
        assert {one.news_id for one in revisions} == {id for id, one in first.items() if one.provisional}
        assert {one.available_at - first[one.news_id].available_at for one in revisions} == {5_000}
        assert not any(one.provisional for one in revisions)
        decisions = [item.decision for item in read_decisions(database, done.run.id)]
        assert any(isinstance(one, Fill) for one in decisions)
        assert verify(database, done.run).identical
        assert verify(database, alone.run).identical
        assert done.run.chain_head != alone.run.chain_head
        assert any("headlines were revised by the slower model" in note for note in done.notes)
        assert not any(one.provisional for one in read_rows(database, alone.run.id, Sentiment))
        found = load_report_data(database, done.run.id)
        assert found.revisions is not None
        assert found.revisions.revisions == len(revisions)
        assert found.revisions.latency_ms == 5_000
        contrary = found.revisions.matrix["bullish"]["bearish"] + found.revisions.matrix["bearish"]["bullish"]
        assert contrary == found.revisions.changed > 0
        assert found.model_drift is not None
        assert found.model_drift.drift.model == "fast", "the drift of first answers"
        page = render(found)
        assert "<h2>Revisions</h2>" in page
        assert f"On {found.revisions.changed:,} it found another class" in page
        assert "<h2>Revisions</h2>" not in render(load_report_data(database, alone.run.id))


def test_the_last_signal_of_a_headline_is_that_of_the_revision(tmp_path: Path) -> None:
    window = LoadedWindow(PLAN, settings(tmp_path), CascadeScorer(Words("fast"), Contrary("slow")))
    signals = [one for _, one in window.decide(window.events()) if isinstance(one, Signal)]
    heard = [one for one in window.news_events if isinstance(one, Sentiment) and one.provisional]
    by_source: dict[tuple[str, str], list[Signal]] = {}
    for signal in signals:
        by_source.setdefault((signal.sources[-1], signal.symbol), []).append(signal)
    sole = [made for made in by_source.values() if all(len(one.sources) == 1 for one in made)]
    assert heard
    assert sole
    for made in sole:
        if len(made) > 1 and {one.bullish for one in made[:2]} == {0.9, 0.05}:
            assert (made[0].bullish, made[1].bullish) == (made[1].bearish, made[0].bearish)


def test_events_are_in_total_order_with_equal_latencies(tmp_path: Path) -> None:
    config = settings(tmp_path, history={"revision_latency": 0})
    sources = History(PLAN, config).news_sources(scorer=CascadeScorer(Words("fast"), Contrary("slow")))
    models: dict[str, list[str]] = {}
    for event in merge(sources):
        if isinstance(event, Sentiment):
            models.setdefault(event.news_id, []).append(event.model)
    assert {tuple(made) for made in models.values()} == {("fast",), ("fast", "slow")}


def test_a_latency_beyond_the_deadline_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, history={"revision_latency": "31s"})
    with pytest.raises(ConfigError, match=r"no revision comes within model\.revise_within, 30s"):
        History(PLAN, config).news_sources(scorer=CascadeScorer(Words("fast"), Contrary("slow")))


def test_the_answer_of_a_fallback_is_no_revision() -> None:
    class Half(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            left = [Provenance("qwen", "p", 1, (), "budget" if "down" in text else "") for text in texts]
            return [HeadlineScore(0.9, 0.05, 0.05, provenance=one) for one in left]

    news = [News("a", 0, 10, "bitcoin"), News("b", 0, 20, "bitcoin down")]
    assert [(one.news_id, one.available_at) for one in revise_news(news, Half("slow"), 5)] == [("a", 15)]


def test_both_models_are_opened_and_recorded(tmp_path: Path) -> None:
    models = [str(write_tiny(tmp_path / f"{warmth}", temperature=warmth)) for warmth in (1.0, 2.0)]
    config = settings(tmp_path, model={"path": models[0], "revise_with": models[1]})
    with closing(open_database(config.store.url)) as database:
        found = configured_scoring(config, database, 1 << 50, allow_leakage=False)
        first, second = models_of(found.scorer)
        assert isinstance(found.scorer, CascadeScorer)
        assert found.versions == {"model": first.fingerprint, "revising model": second.fingerprint}
        assert found.scorer.fingerprint == first.fingerprint != second.fingerprint
        assert found.stamps == ()
        with pytest.raises(LeakageError):
            configured_scoring(config, database, -1, allow_leakage=False)
        assert configured_scoring(config, database, -1, allow_leakage=True).stamps == ("LEAKED",)
