"""Replaces the product's external boundaries by the simulated environment of a harness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from agent.core.errors import VenueError
from agent.live import daemon as daemon_module
from agent.live import run_record, session, venue_rules
from agent.live.market_data import bybit_stream
from agent.live.news import news_producer as news_producer
from tests.simulation.checked_pipeline import CheckedPipeline, CheckedQueue
from tests.simulation.simulated_feeds import InlineParsers, NoAccess
from tests.simulation.simulated_market import SimulatedRest

if TYPE_CHECKING:
    from tests.simulation.simulation_harness import SimulationHarness


@contextmanager
def patched_boundaries(harness: SimulationHarness) -> Iterator[None]:
    runs = f"seed-{harness.seed}"

    @asynccontextmanager
    async def no_socket(*_: object) -> Any:
        yield

    async def no_rules(*_: object, **__: object) -> Any:
        raise VenueError("the simulation has no trading rules: the shipped ones apply")

    with ExitStack() as stack:
        for target, name, substitute in (
            (bybit_stream, "connect", harness.market.connect),
            (news_producer, "fetch", harness.feeds.fetch),
            (news_producer, "DestinationPolicy", NoAccess),
            (news_producer, "ParserPool", InlineParsers),
            (daemon_module, "Pipeline", type("_Pipeline", (CheckedPipeline,), {"harness": harness})),
            (daemon_module, "EventQueue", type("_Queue", (CheckedQueue,), {"harness": harness})),
            (daemon_module, "instance_lock", lambda _: nullcontext()),
            (run_record, "store_lock", lambda *_: nullcontext()),
            (daemon_module, "control_socket", no_socket),
            (venue_rules, "fetch_rules", no_rules),
            (session, "new_run_id", lambda: runs),
            (session, "new_incarnation", lambda: f"{harness.rng.getrandbits(128):032x}"),
        ):
            stack.enter_context(patch.object(target, name, substitute))
        stack.enter_context(patch("ccxt.async_support.bybit", lambda options: SimulatedRest(harness.market)))
        yield
