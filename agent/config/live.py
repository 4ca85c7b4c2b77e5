"""Configuration of live operation: market data, news feeds, the daemon and its log."""

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
            "write an address (10.0.0.7), a network (192.168.0.0/16) or a host name, without a port"
        )
    return value.lower()


PrivateHost = Annotated[str, AfterValidator(_private_host)]


class BybitConfig(Section):
    """Public market data of Bybit v5. Timeouts are real time, even if a sandbox runs a faster market."""

    # or testnet, or http://127.0.0.1:PORT
    endpoint: Annotated[str, AfterValidator(_known_endpoint)] = "mainnet"
    warmup_bars: int = Field(200, ge=0)  # history fetched before the first live bar
    max_backfill: int = Field(10_000, gt=0)  # bars fetched after a long outage; older ones become a gap
    ping_interval: Duration = Field(20_000, gt=0)
    pong_timeout: Duration = Field(10_000, gt=0)
    silence_timeout: Duration = Field(180_000, gt=0)  # without any kline on a connection
    open_timeout: Duration = Field(10_000, gt=0)
    ack_timeout: Duration = Field(10_000, gt=0)
    args_characters: int = Field(ARGS_CHARACTERS, gt=0, le=ARGS_CHARACTERS)  # of the topics of one connection
    args_per_request: int = Field(100, gt=0)  # topics of one subscription; 10 for spot
    max_connects: int = Field(100, gt=0, le=MAX_CONNECTS)  # in five minutes
    max_requests: int = Field(200, gt=0, le=MAX_REQUESTS)  # in five seconds
    ban_wait: Duration = Field(600_000, gt=0)  # after HTTP 403: the venue requires ten minutes
    throttle_wait: Duration = Field(60_000, gt=0)  # after HTTP 429 without Retry-After
    rest_timeout: Duration = Field(10_000, gt=0)
    # after this time the stream continues, and bars still missing become a gap
    backfill_timeout: Duration = Field(60_000, gt=0)
    # time after its end at which a bar of the REST history counts as closed, in the market's time
    settle: Duration = 2_000
    audit_interval: Duration = Field(10_000, gt=0)  # how often overdue bars are searched for
    # tolerated error of the agent's clock: a bar that closes further in the future is refused
    max_ahead: Duration = 5_000
    clock_every: Duration = Field(30_000, gt=0)  # how often the venue's time is measured
    # a price that differs from the last by more than this fraction must be confirmed; 0: never
    max_jump: float = Field(0.1, ge=0)
    confirm_jump: Duration = 3_000  # how long the new price must persist, in the market's time
    reconnect: BackoffConfig = BackoffConfig()
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=5_000)  # of REST requests


class FeedConfig(Section):
    """One RSS, Atom or JSON feed."""

    url: Annotated[str, AfterValidator(_web_url)]  # http or https
    name: str = ""  # empty: the URL's host
    interval: Duration = Field(60_000, gt=0)  # between two polls
    currencies: tuple[str, ...] = ()  # tickers that every headline of the feed is about

    @property
    def label(self) -> str:
        """Name for display: `name`, else the URL's host."""
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
"""Default feeds: crypto publishers, central banks, a regulator and economic news."""


class NewsConfig(Section):
    """The feeds, and the limits on what they may send."""

    feeds: tuple[FeedConfig, ...] = FEEDS
    # largest random extension of each wait, as a fraction, so that feeds aren't polled in step
    jitter: float = Field(0.1, ge=0, le=1)
    spread: Duration = 5_000  # the first polls are spread over this time
    connect_timeout: Duration = Field(10_000, gt=0)
    total_timeout: Duration = Field(30_000, gt=0)
    parse_timeout: Duration = Field(20_000, gt=0)  # of one document; after it the parser's process is killed
    parse_memory: int = Field(256_000_000, ge=16_000_000)  # bytes of memory for parsing
    max_bytes: int = Field(2_000_000, gt=0)  # of a document, compressed or decompressed
    max_redirects: int = Field(5, ge=0)
    max_entries: int = Field(500, gt=0)  # of one document; the newest are kept
    # headlines of one feed, except of its first document; the newest are kept
    max_new_per_poll: int = Field(200, gt=0)
    max_new_per_hour: int = Field(600, gt=0)  # likewise
    max_seen: int = Field(2_000, gt=0)  # entries remembered per feed
    max_age: Duration = 3_600_000  # older entries are recorded, but not traded on
    backlog_age: Duration = 300_000  # the same for a feed that is read for the first time
    max_ahead: Duration = 300_000  # dates further in the future are not trusted
    ancient_after: Duration = Field(2_592_000_000, gt=0)  # dates older than this are not trusted either
    max_retry_after: Duration = 86_400_000  # largest Retry-After that is obeyed
    # addresses, networks and hosts in private networks that feeds may connect to
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
    """The daemon."""

    folder: Path = Path("var")  # of its lock and its control socket
    queue: int = Field(10_000, gt=0)  # events that must not be lost; if it is full, producers wait
    queue_news: int = Field(1_000, gt=0)  # headlines; if it is full, the oldest is dropped
    batch: int = Field(1_000, gt=0)  # events committed to the journal at once
    # least time between two recorded states of an open bar, unless one affects decisions; 0: record all
    open_bars_every: Duration = 15_000
    score_batch: int = Field(32, gt=0)  # headlines scored at once
    # how long a headline waits for others to be scored with it; while the model works, others gather anyway
    score_wait: Duration = 0
    # headlines that waited longer for the model are left unscored
    score_within: Duration = Field(3_600_000, gt=0)
    record_health: Duration = Field(30_000, gt=0)  # how often the feeds' health is written to the store
    # a kill that takes longer is carried out at the venue without the core
    kill_within: Duration = Field(3_000, gt=0)
    drain_timeout: Duration = Field(10_000, gt=0)  # for handling queued events when the agent stops
    restart: BackoffConfig = BackoffConfig()  # of a producer that failed


class LogConfig(Section):
    """The daemon's log, written to standard error."""

    format: Literal["auto", "console", "json"] = "auto"  # auto: console on a terminal, else json
    level: Literal["debug", "info", "warning", "error"] = "info"
