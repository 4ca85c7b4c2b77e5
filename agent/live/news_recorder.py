"""Record headlines without trading: the feeds of the configuration to an archive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from agent.config.live import NewsConfig
from agent.core.errors import first_error
from agent.core.events import Event, News
from agent.data.news_archive import NewsArchive
from agent.live.interfaces.status import FeedHealth
from agent.live.news.news_producer import NewsProducer
from agent.system.clock import Clock

_log: Final = structlog.get_logger(__name__)


class NewsRecorder:
    """Polls the feeds as a live run does and appends what they list to an archive.

    `recorded` counts the headlines written; a restart writes none of them again.
    """

    def __init__(self, config: NewsConfig, archive: NewsArchive, clock: Clock) -> None:
        self.recorded = 0
        self._archive = archive
        self._producer = NewsProducer(config, clock)

    @property
    def feeds(self) -> Sequence[FeedHealth]:
        """A snapshot of each feed."""
        return self._producer.feeds

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set. Raises StoreError if the archive can't be written."""
        archive = self._archive
        if archive.was_cut:
            _log.warning("an unfinished line was removed: its headline is recorded again if a feed lists it")
        _log.info(
            "recording headlines", archive=str(archive.folder), known=archive.known, feeds=len(self.feeds)
        )
        polling = asyncio.create_task(self._producer.run(self._record))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((polling, stopped), return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                await polling
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            for task in (polling, stopped):
                task.cancel()
            await asyncio.gather(polling, stopped, return_exceptions=True)

    def _record(self, event: Event) -> None:
        if isinstance(event, News):
            self.recorded += self._archive.append(event)
