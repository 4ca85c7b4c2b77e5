"""Settings of the core, one section per component.

`agent.config.Config` derives from `CoreConfig` and adds the other sections, so it can be passed to the engine
as it is.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.core.durations import Duration
from agent.core.errors import did_you_mean
from agent.core.news_kinds import NEWS_KINDS

Category = Literal["linear", "spot", "equity"]


class Section(BaseModel):
    """Base class of the configuration's sections: immutable. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MarketConfig(Section):
    """The traded symbols, as the venue writes them, and the interval of the bars."""

    symbols: tuple[str, ...] = Field(("BTCUSDT", "ETHUSDT"), min_length=1)
    category: Category = "linear"
    interval: Duration = Field(60_000, gt=0)
    calendar_bars: bool = False  # months, or days of a local time zone; a replay sets it by its files


class AccountConfig(Section):
    """The paper account."""

    initial_capital: Decimal = Field(Decimal(10_000), gt=0)
    currency: str = "USDT"
    leverage: Decimal = Field(Decimal(1), gt=0, le=100)


class InstrumentConfig(Section):
    """Overrides of one symbol's trading rules; omitted ones come from the category's defaults."""

    tick_size: Decimal | None = Field(None, gt=0)  # the smallest step of a price
    qty_step: Decimal | None = Field(None, gt=0)  # the smallest step of a quantity
    min_qty: Decimal | None = Field(None, ge=0)  # of an order
    min_notional: Decimal | None = Field(None, ge=0)  # the least value of an order
    maintenance_margin: Decimal | None = Field(None, ge=0, lt=1)  # fraction of notional; liquidated below it
    max_leverage: Decimal | None = Field(None, gt=0)  # the venue's limit
    aliases: tuple[str, ...] = ()  # other names that headlines use


_MACRO_KEYWORDS: Final = (
    "fed, fomc, federal reserve, interest rate, rate cut, rate hike, inflation, cpi, pce, payrolls, "
    "treasury yields, tariff, tariffs, recession, crypto market, cryptocurrency, cryptocurrencies, crypto"
)


class SignalsConfig(Section):
    """How headlines become signals."""

    threshold: float = Field(0.7, gt=0, lt=1)  # least calibrated confidence of a headline that votes
    half_life: Duration = Field(1_800_000, gt=0)  # time in which a vote's weight halves
    window: Duration = Field(14_400_000, gt=0)  # older votes are removed
    fade_below: float = Field(0.25, gt=0)  # a signal expires once its votes weigh less than this
    story_similarity: float = Field(0.6, gt=0, le=1)  # least Jaccard index of two headlines of one story
    story_window: Duration = Field(86_400_000, gt=0)
    macro_keywords: tuple[str, ...] = tuple(_MACRO_KEYWORDS.split(", "))
    # kinds of news that may vote; a headline without a kind always may
    kinds: tuple[str, ...] = Field(NEWS_KINDS, min_length=1)

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NEWS_KINDS:
                hint = did_you_mean(name, NEWS_KINDS, f"the kinds are {', '.join(NEWS_KINDS)}")
                raise ValueError(f"unknown kind of news {name}; {hint}")
        return value


class StrategyConfig(Section):
    """The strategy and its parameters."""

    name: str = "sentiment"  # a built-in's name, package.module:Class, or a file: mine.py, mine.py:Class
    params: dict[str, Any] = {}  # by name


class RiskConfig(Section):
    """Risk limits. Fractions are of equity."""

    max_position: float = Field(1.0, gt=0)  # notional of one symbol
    max_leverage: float = Field(1.0, gt=0)  # gross notional of all
    max_order: float = Field(1.0, gt=0)  # notional of one order
    max_daily_loss: float = Field(0.05, gt=0, le=1)  # since 00:00 UTC; REDUCING until the next day
    max_drawdown: float = Field(0.25, gt=0, le=1)  # from the peak; HALTED until an operator resumes
    on_max_drawdown: Literal["halt", "flatten"] = "halt"  # then keep positions with their stops, or close
    max_orders_per_minute: int = Field(60, gt=0)
    stale_after: Duration = Field(300_000, gt=0)  # no new exposure in a symbol whose next bar is this late
    on_stale: Literal["hold", "cancel", "flatten"] = "cancel"  # live: then keep, cancel entries, or close
    max_abstain_rate: float = Field(0.5, gt=0, le=1)  # of `abstain_window` headlines; REDUCING above it
    abstain_window: int = Field(50, gt=0)


class SleeveConfig(Section):
    """One of several strategies in one account: it trades a share of the capital in a virtual portfolio."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,23}$")  # unique in the account
    strategy: StrategyConfig = StrategyConfig()  # as in [strategy]; or only its name
    symbols: tuple[str, ...] = ()  # some of market.symbols; empty: all
    share: Decimal = Field(gt=0, le=1)  # of account.initial_capital
    risk: dict[str, Any] = {}  # limits other than those of [risk]; fractions are of the sleeve's equity
    enabled: bool = True  # False: its share stays idle until `tapewire sleeve add NAME`

    @field_validator("strategy", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("symbols")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a symbol occurs twice")
        return value

    @field_validator("risk")
    @classmethod
    def _known_limits(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in RiskConfig.model_fields:
                meant = did_you_mean(name, RiskConfig.model_fields, "the limits are those of [risk]")
                raise ValueError(f"unknown limit {name}; {meant}")
        limits = RiskConfig.model_validate(value).model_dump(mode="json")
        return {name: limits[name] for name in value}


class PaperConfig(Section):
    """The paper exchange; docs/assumptions.md explains every rule."""

    fill: Literal["open", "close"] = "open"  # `close`: at the signal bar's own close, only for comparisons
    latency: Duration = 250  # from decision to exchange
    fees: Literal["maker_taker", "per_share", "none"] = "maker_taker"
    maker_fee: Decimal | None = None  # fraction of notional; by default the category's
    taker_fee: Decimal | None = None  # fraction of notional; by default the category's
    per_share_fee: Decimal = Field(Decimal("0.005"), ge=0)  # per share, with fees = "per_share"
    half_spread_bps: float = Field(0.5, ge=0)  # paid by takers, each side
    slippage: Literal["none", "fixed", "square_root"] = "square_root"
    slippage_bps: float = Field(1.0, ge=0)  # of `fixed`
    impact: float = Field(0.3, ge=0)  # of `square_root`: impact * bar range * sqrt(participation)
    liquidity: Literal["participation", "infinite"] = "participation"
    max_participation: float = Field(0.1, gt=0, le=1)  # of a bar's volume
    limit_fill: Literal["through", "touch"] = "through"
    funding_rate: Decimal = Decimal("0.0001")  # per stamp, without a history of rates; linear only
    funding_interval: Duration = Field(28_800_000, gt=0)
    liquidation_fee: Decimal = Field(Decimal("0.0005"), ge=0)
    rebalance_band: float = Field(0.1, ge=0, lt=1)  # smaller changes of a weight, as a share, are left out


class CoreConfig(Section):
    """All settings that affect the engine's decisions."""

    market: MarketConfig = MarketConfig()
    account: AccountConfig = AccountConfig()
    instruments: dict[str, InstrumentConfig] = {}
    signals: SignalsConfig = SignalsConfig()
    strategy: StrategyConfig = StrategyConfig()
    risk: RiskConfig = RiskConfig()
    paper: PaperConfig = PaperConfig()
    # several strategies in one account; [strategy] is then unused
    sleeves: tuple[SleeveConfig, ...] = ()

    def strategies(self) -> dict[str, StrategyConfig]:
        """Return the strategies that trade from the start, by the name of their sleeve ("" without sleeves).

        Sleeves that are not enabled are left out.
        """
        if not self.sleeves:
            return {"": self.strategy}
        return {sleeve.name: sleeve.strategy for sleeve in self.sleeves if sleeve.enabled}

    @field_validator("sleeves")
    @classmethod
    def _one_account(cls, value: tuple[SleeveConfig, ...]) -> tuple[SleeveConfig, ...]:
        names = [sleeve.name for sleeve in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sleeves have the name {name}")
        if (total := sum(sleeve.share for sleeve in value)) > 1:
            raise ValueError(f"the shares of the sleeves sum to {total}, which is more than 1")
        return value

    @field_validator("instruments")
    @classmethod
    def _upper_case(cls, value: dict[str, InstrumentConfig]) -> dict[str, InstrumentConfig]:
        return {symbol.upper(): rules for symbol, rules in value.items()}
