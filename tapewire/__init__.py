"""Tapewire for scripts, notebooks and strategies: import everything from here.

    import tapewire as tw

    class Momentum(tw.Strategy[tw.StrategyParams]):
        def on_signal(self, signal: tw.Signal, market: tw.Market) -> None:
            if signal.actionable and signal.direction is tw.BUY:
                self.target(signal.symbol, weight=0.1, stop=-0.02)

    bars = tw.load_klines("BTCUSDT-1m.csv")
    result = tw.Backtest("momentum.py", bars, tw.load_news("headlines.csv")).run()
    assert tw.verify(result.run.id).identical

Each name is imported when it is first used, so that a strategy needs neither pandas nor a model's libraries.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent import __version__ as __version__
    from agent.api.api_client import ApiError as ApiError
    from agent.api.api_client import Client as Client
    from agent.config import Config as Config
    from agent.config import load as load_config  # noqa: F401 - exported
    from agent.core.bar_block import BarSpan as BarSpan
    from agent.core.bar_history import Bar as Bar
    from agent.core.bar_history import Bars as Bars
    from agent.core.errors import ConfigError as ConfigError
    from agent.core.errors import DataError as DataError
    from agent.core.errors import LeakageError as LeakageError
    from agent.core.errors import ModelError as ModelError
    from agent.core.errors import SafetyError as SafetyError
    from agent.core.errors import StoreError as StoreError
    from agent.core.errors import StrategyError as StrategyError
    from agent.core.errors import TapewireError as TapewireError
    from agent.core.errors import UsageError as UsageError
    from agent.core.errors import VenueError as VenueError
    from agent.core.events import BUY as BUY
    from agent.core.events import HOLD as HOLD
    from agent.core.events import SELL as SELL
    from agent.core.events import Direction as Direction
    from agent.core.events import Fill as Fill
    from agent.core.events import Kline as Kline
    from agent.core.events import News as News
    from agent.core.events import Order as Order
    from agent.core.events import Prediction as Prediction
    from agent.core.events import RiskState as RiskState
    from agent.core.events import Sentiment as Sentiment
    from agent.core.events import Side as Side
    from agent.core.events import Signal as Signal
    from agent.core.events import TimeInForce as TimeInForce
    from agent.core.features import Features as Features
    from agent.core.strategy import Market as Market
    from agent.core.strategy import Strategy as Strategy
    from agent.core.strategy import StrategyParams as StrategyParams
    from agent.core.strategy import Target as Target
    from agent.data.loaders import BybitDataLoader as BybitDataLoader
    from agent.data.loaders import FileDataLoader as FileDataLoader
    from models.sentiment.serve.generator import SentimentSignalGenerator as SentimentSignalGenerator
    from models.sentiment.serve.scorer import Scorer as Scorer
    from tapewire.backtester import Backtest as Backtest
    from tapewire.backtester import SentimentBacktester as SentimentBacktester
    from tapewire.backtester import load_klines as load_klines
    from tapewire.backtester import load_news as load_news
    from tapewire.backtester import sample_data as sample_data
    from tapewire.backtester import verify as verify
    from tapewire.result import BacktestResult as BacktestResult

_HOME: Final = {
    "agent": ("__version__",),
    "agent.config": ("Config", "load_config=load"),
    "agent.core.bar_block": ("BarSpan",),
    "agent.core.bar_history": ("Bar", "Bars"),
    "agent.core.errors": (
        "ConfigError",
        "DataError",
        "LeakageError",
        "ModelError",
        "SafetyError",
        "StoreError",
        "StrategyError",
        "TapewireError",
        "UsageError",
        "VenueError",
    ),
    "agent.core.events": (
        "BUY",
        "HOLD",
        "SELL",
        "Direction",
        "Fill",
        "Kline",
        "News",
        "Order",
        "Prediction",
        "RiskState",
        "Sentiment",
        "Side",
        "Signal",
        "TimeInForce",
    ),
    "agent.core.features": ("Features",),
    "agent.core.strategy": ("Market", "Strategy", "StrategyParams", "Target"),
    "agent.data.loaders": ("BybitDataLoader", "FileDataLoader"),
    "models.sentiment.serve.generator": ("SentimentSignalGenerator",),
    "models.sentiment.serve.scorer": ("Scorer",),
    "tapewire.backtester": (
        "Backtest",
        "SentimentBacktester",
        "load_klines",
        "load_news",
        "sample_data",
        "verify",
    ),
    "agent.api.api_client": ("ApiError", "Client"),
    "tapewire.result": ("BacktestResult",),
}
"""Where each public name lives; `here=there` if it has another name there."""

_NAMES: Final = {
    name.partition("=")[0]: (module, name.rpartition("=")[2])
    for module, names in _HOME.items()
    for name in names
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'tapewire' has no attribute {name!r}")
    module, original = _NAMES[name]
    value = globals()[name] = getattr(import_module(module), original)
    return value


def __dir__() -> list[str]:
    return __all__


def _refuse_foreign_packages() -> None:
    """Raise ImportError if another `agent`, `models` or `strategies` takes the place of Tapewire's, as
    one in the working folder does.
    """
    home = Path(__file__).resolve().parents[1]
    for package in ("agent", "models", "strategies"):
        spec = find_spec(package)
        places = (
            []
            if spec is None
            else [Path(one).resolve() for one in spec.submodule_search_locations or [spec.origin or ""]]
        )
        if home / package not in places[:1]:
            found = places[0] if places else "nothing"
            raise ImportError(
                f"{found} takes the place of Tapewire's package {package!r}: rename it, or start Python in "
                "another folder"
            )


_refuse_foreign_packages()


def main() -> None:
    """Run the command line."""
    from agent.cli.main import main as run

    run()
