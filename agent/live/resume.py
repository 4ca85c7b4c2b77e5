"""Where each source continues after a restart, learned while the run's journal is folded."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from agent.core.events import Command, Event, Funding, Gap, Kline, News, Sentiment
from agent.data.given_up import GIVEN_UP, causes_of
from agent.data.text import news_id, title_key

HEADLINES: Final = 20_000
"""Maximum number of headlines remembered."""


def title_hashes(news: News) -> str:
    """Hash a headline's title, and its feed, address and title: 32 hexadecimal digits each."""
    title = title_key(news.title)
    return news_id("", "", title, 0) + news_id("", news.feed, f"{news.url}\x1f{title}", 0)


class ResumePoint:
    """State of a run's inputs; `update` it with every event in order. Times are UTC ms."""

    def __init__(self) -> None:
        self.first_at: int | None = None
        self.now = 0  # available_at of the last event
        # (symbol, interval) -> start of the last bar that closed or is part of a gap
        self.bars: dict[tuple[str, int], int] = {}
        # (symbol, interval) -> close of that bar, or of the last closed bar before a gap
        self.closes: dict[tuple[str, int], float] = {}
        self.closed_at = 0  # the last close of a bar or funding stamp
        # id -> `title_hashes`; None in snapshots of earlier versions
        self.headlines: OrderedDict[str, str | None] = OrderedDict()
        self.unscored: OrderedDict[str, News] = OrderedDict()
        # with a provisional score that nothing has revised, and when that was available
        self.unrevised: OrderedDict[str, tuple[News, int]] = OrderedDict()
        self.model = ""  # folder chosen by the command use-model

    def update(self, event: Event) -> None:
        self.now = event.available_at
        if self.first_at is None:
            self.first_at = self.now
        match event:
            case Kline(confirm=True):
                self.bars[event.symbol, event.interval] = event.start
                self.closes[event.symbol, event.interval] = event.close
                self.closed_at = max(self.closed_at, event.ts)
            case Funding():
                self.closed_at = max(self.closed_at, event.ts)
            case Gap():
                self.bars[event.symbol, event.interval] = event.end - event.interval
            case News():
                self.headlines[event.id] = title_hashes(event)
                self.unscored[event.id] = event
                if len(self.headlines) > HEADLINES:
                    self.headlines.popitem(last=False)
                if len(self.unscored) > HEADLINES:
                    self.unscored.popitem(last=False)
            case Sentiment():
                self._on_sentiment(event)
            case Command(action="model-in-use"):
                self.model = event.args.get("chosen", "")
            case Command() if event.action == GIVEN_UP:
                for news_id in causes_of(event):
                    self.unrevised.pop(news_id, None)

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        news = self.unscored.pop(sentiment.news_id, None)
        if not sentiment.provisional:
            self.unrevised.pop(sentiment.news_id, None)
        elif news is not None:
            self.unrevised[news.id] = news, sentiment.available_at
            if len(self.unrevised) > HEADLINES:
                self.unrevised.popitem(last=False)
