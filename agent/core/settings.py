"""Settings of the core, one section a component.

`agent.config.Config` extends `CoreConfig` with the sections of the shells, so a whole configuration is one of the core, too.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.core.durations import Duration

Category = Literal["linear", "spot", "equity"]


class Section(BaseModel):
    """Base of every section of the configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MarketConfig(Section):
    """What is traded and on which bars. Symbols are as the venue writes them."""

    symbols: tuple[str, ...] = Field(("BTCUSDT", "ETHUSDT"), min_length=1)
    category: Category = "linear"
    interval: Duration = Field(60_000, gt=0)
    # True for months, and for days of a zone that changes its clocks; a replay takes it from its files
    calendar_bars: bool = False


class AccountConfig(Section):
    """The paper account."""

    initial_capital: Decimal = Field(Decimal(10_000), gt=0)
    currency: str = "USDT"
    leverage: Decimal = Field(Decimal(1), gt=0, le=100)


class InstrumentConfig(Section):
    """Overrides of one symbol's trading rules; what is left out comes from the category's defaults."""

    tick_size: Decimal | None = Field(None, gt=0)  # the smallest step of a price
    qty_step: Decimal | None = Field(None, gt=0)  # the smallest step of a quantity
    min_qty: Decimal | None = Field(None, ge=0)  # of an order
    min_notional: Decimal | None = Field(None, ge=0)  # the least value of an order
    # share of the notional; below it a position is liquidated
    maintenance_margin: Decimal | None = Field(None, ge=0, lt=1)
    max_leverage: Decimal | None = Field(None, gt=0)  # that the venue allows
    aliases: tuple[str, ...] = ()  # other names by which headlines call it


class SignalsConfig(Section):
    """How headlines become signals."""

    threshold: float = Field(0.7, gt=0, lt=1)  # calibrated confidence from which a headline counts
    half_life: Duration = Field(1_800_000, gt=0)  # a vote's weight halves in this time
    window: Duration = Field(14_400_000, gt=0)  # votes older than this are forgotten
    fade_below: float = Field(0.25, gt=0)  # a signal has faded once its voters' weight is below this
    # Jaccard of content words from which two headlines are one story
    story_similarity: float = Field(0.6, gt=0, le=1)
    story_window: Duration = Field(86_400_000, gt=0)
    macro_keywords: tuple[str, ...] = (
        "fed", "fomc", "federal reserve", "interest rate", "rate cut", "rate hike", "inflation", "cpi", "pce", "payrolls",
        "treasury yields", "tariff", "tariffs", "recession", "crypto market", "cryptocurrency", "cryptocurrencies", "crypto",
    )  # fmt: skip


class StrategyConfig(Section):
    """Which strategy trades, and with which parameters."""

    name: str = "sentiment"  # a built-in's name, package.module:Class, or a file: mine.py, mine.py:Class
    params: dict[str, Any] = {}  # of the strategy, by their names


class RiskConfig(Section):
    """The last gate before any order. Fractions are of equity."""

    max_position: float = Field(1.0, gt=0)  # notional of one symbol
    max_leverage: float = Field(1.0, gt=0)  # gross notional of all
    max_order: float = Field(1.0, gt=0)  # notional of one order
    max_daily_loss: float = Field(0.05, gt=0, le=1)  # since 00:00 UTC; REDUCING until the next day
    max_drawdown: float = Field(0.25, gt=0, le=1)  # from the peak; HALTED until a person resumes
    max_orders_per_minute: int = Field(60, gt=0)
    # no bar of a symbol for this long beyond its due: no new exposure in it
    stale_after: Duration = Field(300_000, gt=0)
    # what becomes of entries and of the position in it, live
    on_stale: Literal["hold", "cancel", "flatten"] = "cancel"
    # of the last `abstain_window` headlines; REDUCING above it
    max_abstain_rate: float = Field(0.5, gt=0, le=1)
    abstain_window: int = Field(50, gt=0)


class PaperConfig(Section):
    """The paper exchange; every rule's meaning is in docs/assumptions.md."""

    # `close` fills at the signal bar's own close: only for comparisons
    fill: Literal["open", "close"] = "open"
    latency: Duration = 250  # decision to exchange
    fees: Literal["maker_taker", "per_share", "none"] = "maker_taker"
    maker_fee: Decimal | None = None  # fraction of notional; default by category
    taker_fee: Decimal | None = None  # share of the notional; left out: of the category
    per_share_fee: Decimal = Field(Decimal("0.005"), ge=0)  # money a share, with the fee model of that name
    half_spread_bps: float = Field(0.5, ge=0)  # paid by takers, each side
    slippage: Literal["none", "fixed", "square_root"] = "square_root"
    slippage_bps: float = Field(1.0, ge=0)  # of `fixed`
    impact: float = Field(0.3, ge=0)  # of `square_root`: impact * bar range * sqrt(participation)
    liquidity: Literal["participation", "infinite"] = "participation"
    max_participation: float = Field(0.1, gt=0, le=1)  # of a bar's volume
    limit_fill: Literal["through", "touch"] = "through"
    funding_rate: Decimal = Decimal("0.0001")  # constant per stamp where no history is given; linear only
    funding_interval: Duration = Field(28_800_000, gt=0)
    liquidation_fee: Decimal = Field(Decimal("0.0005"), ge=0)
    rebalance_band: float = Field(0.1, ge=0, lt=1)  # a target nearer than this to the position is left alone


class CoreConfig(Section):
    """Everything that the engine decides by."""

    market: MarketConfig = MarketConfig()
    account: AccountConfig = AccountConfig()
    instruments: dict[str, InstrumentConfig] = {}
    signals: SignalsConfig = SignalsConfig()
    strategy: StrategyConfig = StrategyConfig()
    risk: RiskConfig = RiskConfig()
    paper: PaperConfig = PaperConfig()

    @field_validator("instruments")
    @classmethod
    def _upper_case(cls, value: dict[str, InstrumentConfig]) -> dict[str, InstrumentConfig]:
        return {symbol.upper(): rules for symbol, rules in value.items()}
