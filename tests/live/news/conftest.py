"""Fixtures of the news producer's tests."""

from __future__ import annotations

from tests.support.producers import background, captured, clock, collector, feed_server, venue

__all__ = ["background", "captured", "clock", "collector", "feed_server", "venue"]
