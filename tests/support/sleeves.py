"""Accounts with several sleeves for tests: strategies by name, an engine, and its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.config import Config, parse
from agent.core.events import Event, Fill, Kline, Order
from agent.core.sinks import ListSink
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy
from tests.support.market import config

BTC, ETH = "BTCUSDT", "ETHUSDT"

Targets = Mapping[int, Mapping[str, Any]]


class Steps(Strategy):
    """Sets the targets configured for each bar number: arguments of `target`, or an error to raise."""

    def __init__(self, steps: Targets) -> None:
        super().__init__()
        self.steps = {number: dict(more) for number, more in steps.items()}
        self.bars = 0
        self.filled: list[str] = []

    def on_kline(self, kline: Kline, market: Market) -> None:
        step = self.steps.get(self.bars)
        self.bars += 1
        if step is not None:
            more = dict(step)
            if error := more.pop("error", ""):
                raise RuntimeError(error)
            self.target(more.pop("symbol", kline.symbol), **more)

    def on_fill(self, fill: Fill, market: Market) -> None:
        self.filled.append(f"{fill.kind.value} {fill.side.value} {fill.qty}")


def sleeve(name: str, share: float, **more: Any) -> dict[str, Any]:
    """Return the section of a sleeve whose strategy has its name."""
    return {"name": name, "strategy": name, "share": share, **more}


def sleeved_config(*sleeves: dict[str, Any], **sections: dict[str, Any]) -> Config:
    """Return `tests.support.market.config` with sleeves."""
    plain = config(**sections).model_dump(mode="json")
    return parse({**plain, "sleeves": list(sleeves)}, where="test")


def account(
    settings: Config, strategies: Mapping[str, Strategy | Targets], **more: Any
) -> tuple[SleevedEngine, ListSink]:
    """Return an engine whose sleeves have these strategies, by name, and its sink."""

    def load(name: str, _: Mapping[str, Any], __: Mapping[str, str] | None) -> Strategy:
        one = strategies[name]
        return one if isinstance(one, Strategy) else Steps(one)

    sink = more.pop("sink", None) or ListSink()
    return SleevedEngine(settings, load, sink, run_id="test", **more), sink


def play(engine: SleevedEngine, events: Iterable[Event]) -> None:
    """Feed events; the sleeves add up to the account after each."""
    for event in events:
        engine.handle(event)
        engine.check()


def orders(sink: ListSink, name: str = "") -> list[Order]:
    """Return the orders, of one sleeve if it is named."""
    return [one for one in sink.decisions if isinstance(one, Order) and name in ("", one.sleeve)]


def fills(sink: ListSink, name: str = "") -> list[Fill]:
    """Return the fills, of one sleeve if it is named."""
    return [one for one in sink.decisions if isinstance(one, Fill) and name in ("", one.sleeve)]
