"""The configuration of what runs live: market data, news feeds and the waits between tries."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.config.bybit import ARGS_CHARACTERS, MAX_CONNECTS, MAX_REQUESTS, endpoint
from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.backoff import BackoffConfig

_HOST_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def _known_endpoint(value: str) -> str:
    endpoint(value)
    return value


def _web_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("a feed's URL begins with http:// or https://")
    return value


def _private_host(value: str) -> str:
    with suppress(ValueError):
        return str(ip_network(value, strict=False))
    if not _HOST_NAME.fullmatch(value):
        raise ValueError(
            "write an address (10.0.0.7), a network (192.168.0.0/16) or the name of a host, without a port"
        )
    return value.lower()


PrivateHost = Annotated[str, AfterValidator(_private_host)]


class BybitConfig(Section):
    """Market data of Bybit v5: public, without a key. Time-outs are real time, also where a sandbox runs a faster market."""

    # or testnet, or http://127.0.0.1:PORT
    endpoint: Annotated[str, AfterValidator(_known_endpoint)] = "mainnet"
    warmup_bars: int = Field(200, ge=0)  # history fetched before the first live bar
    max_backfill: int = Field(10_000, gt=0)  # bars fetched after a long absence; what is older becomes a gap
    ping_interval: Duration = Field(20_000, gt=0)
    pong_timeout: Duration = Field(10_000, gt=0)
    silence_timeout: Duration = Field(180_000, gt=0)  # without any kline on a connection
    open_timeout: Duration = Field(10_000, gt=0)
    ack_timeout: Duration = Field(10_000, gt=0)
    args_characters: int = Field(ARGS_CHARACTERS, gt=0, le=ARGS_CHARACTERS)  # of the topics of one connection
    args_per_request: int = Field(100, gt=0)  # topics of one subscription; spot takes 10
    max_connects: int = Field(100, gt=0, le=MAX_CONNECTS)  # in five minutes
    max_requests: int = Field(200, gt=0, le=MAX_REQUESTS)  # in five seconds
    ban_wait: Duration = Field(600_000, gt=0)  # after HTTP 403: the venue asks for ten minutes
    throttle_wait: Duration = Field(60_000, gt=0)  # after HTTP 429 without Retry-After
    rest_timeout: Duration = Field(10_000, gt=0)
    # after this the stream goes on, and what is missing is a gap
    backfill_timeout: Duration = Field(60_000, gt=0)
    # a bar of the REST history counts as closed so long after its end, in the market's time
    settle: Duration = 2_000
    audit_interval: Duration = Field(10_000, gt=0)  # how often overdue bars are looked for
    # error of the agent's clock: a bar that closes later than this from now is refused
    max_ahead: Duration = 5_000
    clock_every: Duration = Field(30_000, gt=0)  # how often the venue's time is measured
    # a price further from the last one, as a share of it, has to be confirmed; 0: none
    max_jump: float = Field(0.1, ge=0)
    confirm_jump: Duration = 3_000  # for so long a new price has to stand, in the market's time
    reconnect: BackoffConfig = BackoffConfig()
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=5_000)  # of REST requests


class FeedConfig(Section):
    """One RSS, Atom or JSON feed."""

    url: Annotated[str, AfterValidator(_web_url)]  # http or https
    name: str = ""  # the host where it is left out
    interval: Duration = Field(60_000, gt=0)  # between two polls
    currencies: tuple[str, ...] = ()  # tickers that all of the feed is about

    @property
    def label(self) -> str:
        """What to call it."""
        return self.name or urlsplit(self.url).hostname or self.url


FEEDS: Final = tuple(
    FeedConfig(url=url, name=name, interval=interval)
    for name, url, interval in (
        ("CoinDesk", "https://www.coindesk.com/arc/outboundfeeds/rss/", "1m"),
        ("Cointelegraph", "https://cointelegraph.com/rss", "1m"),
        ("Decrypt", "https://decrypt.co/feed", "1m"),
        ("The Block", "https://www.theblock.co/rss.xml", "1m"),
        ("Blockworks", "https://blockworks.co/feed", "2m"),
        ("CryptoSlate", "https://cryptoslate.com/feed/", "2m"),
        ("Bitcoin Magazine", "https://bitcoinmagazine.com/feed", "5m"),
        ("Federal Reserve", "https://www.federalreserve.gov/feeds/press_all.xml", "1m"),
        ("SEC", "https://www.sec.gov/news/pressreleases.rss", "5m"),
        ("ECB", "https://www.ecb.europa.eu/rss/press.html", "5m"),
        ("CNBC Economy", "https://www.cnbc.com/id/20910258/device/rss/rss.html", "2m"),
    )
)
"""Crypto publishers, and those whose words move every market."""


class NewsConfig(Section):
    """The feeds, and how far each is trusted."""

    feeds: tuple[FeedConfig, ...] = FEEDS
    # each wait is longer by up to this share, so that feeds don't come due as one
    jitter: float = Field(0.1, ge=0, le=1)
    spread: Duration = 5_000  # the first polls are spread over this time
    connect_timeout: Duration = Field(10_000, gt=0)
    total_timeout: Duration = Field(30_000, gt=0)
    parse_timeout: Duration = Field(20_000, gt=0)  # of one document; then its process is killed
    parse_memory: int = Field(256_000_000, ge=16_000_000)  # bytes that parsing may take
    max_bytes: int = Field(2_000_000, gt=0)  # of a document, decompressed too
    max_redirects: int = Field(5, ge=0)
    max_entries: int = Field(500, gt=0)  # of one document; the newest count
    # headlines of one feed, except of its first document; the newest count
    max_new_per_poll: int = Field(200, gt=0)
    max_new_per_hour: int = Field(600, gt=0)  # likewise
    max_seen: int = Field(2_000, gt=0)  # entries remembered of each feed
    max_age: Duration = 3_600_000  # older entries are recorded, but nothing trades on them
    backlog_age: Duration = 300_000  # the same for a feed that was never read before
    max_ahead: Duration = 300_000  # dates further in the future are not trusted
    ancient_after: Duration = Field(2_592_000_000, gt=0)  # nor are older ones
    max_retry_after: Duration = 86_400_000  # a server can't ask for more patience
    # addresses, networks and hosts on private networks that feeds may lead to
    allow_private: tuple[PrivateHost, ...] = ()
    user_agent: str = "tapewire (+RSS reader)"
    retry: BackoffConfig = BackoffConfig(first=30_000, ceiling=3_600_000)

    @model_validator(mode="after")
    def _distinct(self) -> NewsConfig:
        for what, values in (("url", [f.url for f in self.feeds]), ("name", [f.label for f in self.feeds])):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice:
                raise ValueError(f"two feeds have the {what} {twice!r}; give each its own")
        return self


class LiveConfig(Section):
    """The daemon itself."""

    folder: Path = Path("var")  # of its lock and its control socket
    queue: int = Field(10_000, gt=0)  # events that may not be lost; beyond it producers wait
    queue_news: int = Field(1_000, gt=0)  # headlines; beyond it the oldest is dropped
    batch: int = Field(1_000, gt=0)  # events committed to the journal at once
    # of a bar that is open, one state in this time, besides what can decide; 0: all
    open_bars_every: Duration = 15_000
    score_batch: int = Field(32, gt=0)  # headlines scored at once
    score_wait: Duration = 50  # how long the first of them waits for the others
    # headlines that waited longer for the model are left unscored
    score_within: Duration = Field(3_600_000, gt=0)
    record_health: Duration = Field(30_000, gt=0)  # how often the feeds' health is written to the store
    # a kill that isn't done by then is carried out at the venue without the core
    kill_within: Duration = Field(3_000, gt=0)
    drain_timeout: Duration = Field(10_000, gt=0)  # what waits when the agent is stopped is handled so long
    restart: BackoffConfig = BackoffConfig()  # of a producer that failed


class LogConfig(Section):
    """What the daemon says, on standard error."""

    format: Literal["auto", "console", "json"] = "auto"  # auto: console on a terminal, else json
    level: Literal["debug", "info", "warning", "error"] = "info"
