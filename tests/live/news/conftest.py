"""Fixtures of the news producer's tests."""

from __future__ import annotations

from tests.support.producers import background, captured, clock, feed_server, listener, venue

__all__ = ["background", "captured", "clock", "feed_server", "listener", "venue"]
