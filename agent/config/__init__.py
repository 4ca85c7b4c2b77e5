"""The configuration: one typed section a component, validated before anything starts.

`load` reads TOML; a key that does not exist is an error naming the file, the key and the closest match.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import Field, ValidationError, field_validator

from agent.config.checks import check_fractions, check_limits, check_symbols, fraction_hint, refuse_variables
from agent.config.control import ArchiveConfig, BackupConfig, ControlConfig
from agent.config.dashboard import DashboardConfig
from agent.config.execution import ExecutionConfig
from agent.config.fusion import FusionConfig
from agent.config.live import BackoffConfig, BybitConfig, LiveConfig, LogConfig, NewsConfig
from agent.config.services import MetricsConfig, MqttConfig, NotifyConfig, WorkersConfig
from agent.core.durations import Duration
from agent.core.errors import ConfigError
from agent.core.section import Section
from agent.core.symbol_names import is_symbol
from agent.system.resources import resource

Category = Literal["linear", "spot", "equity"]
_NESTED: Final = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


class MarketConfig(Section):
    """What is traded and on which bars. Symbols are as the venue writes them."""

    symbols: tuple[str, ...] = Field(("BTCUSDT", "ETHUSDT"), min_length=1)
    category: Category = "linear"
    interval: Duration = Field(60_000, gt=0)


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


class HistoryConfig(Section):
    """Replay: when history became known."""

    feed_delay: Duration = 60_000  # publication to first seen
    inference_latency: Duration = 250  # first seen to scored
    # files to replay where the command line names none; none here either: the sample data
    klines: tuple[str, ...] = ()
    news: str = ""  # file of headlines
    sentiment: str = ""  # headlines that are scored already
    funding: str = ""  # file of funding rates
    timezone: str = ""  # of times in those files that name none


class StoreConfig(Section):
    """Where everything is recorded."""

    url: str = "sqlite:///var/tapewire.db"
    # a store that can't be written halts the running agent, and after so long ends it
    patience: Duration = 1_800_000
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=10_000)  # until then
    # how often the core's state is saved, so that a restart takes seconds; 0: never
    snapshot_every: Duration = 900_000
    # a finished one of the journal of a live run is moved to archive.folder; 0: never
    segment: Duration = 2_592_000_000
    snapshots: int = Field(3, gt=0)  # of them kept, besides those that begin a segment


class ModelConfig(Section):
    """The sentiment model that serves: `starter`, or a folder made by `tapewire export`."""

    path: str = "starter"
    threads: int = Field(0, ge=0)  # 0: all cores


class Config(Section):
    """The whole file."""

    market: MarketConfig = MarketConfig()
    account: AccountConfig = AccountConfig()
    instruments: dict[str, InstrumentConfig] = {}
    signals: SignalsConfig = SignalsConfig()
    strategy: StrategyConfig = StrategyConfig()
    risk: RiskConfig = RiskConfig()
    paper: PaperConfig = PaperConfig()
    history: HistoryConfig = HistoryConfig()
    store: StoreConfig = StoreConfig()
    model: ModelConfig = ModelConfig()
    fusion: FusionConfig = FusionConfig()
    execution: ExecutionConfig = ExecutionConfig()
    bybit: BybitConfig = BybitConfig()
    news: NewsConfig = NewsConfig()
    live: LiveConfig = LiveConfig()
    control: ControlConfig = ControlConfig()
    log: LogConfig = LogConfig()
    dashboard: DashboardConfig = DashboardConfig()
    metrics: MetricsConfig = MetricsConfig()
    mqtt: MqttConfig = MqttConfig()
    workers: WorkersConfig = WorkersConfig()
    notify: NotifyConfig = NotifyConfig()
    archive: ArchiveConfig = ArchiveConfig()
    backup: BackupConfig = BackupConfig()

    @field_validator("instruments")
    @classmethod
    def _upper_case(cls, value: dict[str, InstrumentConfig]) -> dict[str, InstrumentConfig]:
        return {symbol.upper(): rules for symbol, rules in value.items()}

    def untraded_instruments(self) -> tuple[str, ...]:
        """The symbols of `instruments` that are not traded, so that their rules apply to nothing."""
        return tuple(symbol for symbol in self.instruments if symbol not in self.market.symbols)

    def check_live(self) -> None:
        """Raises ConfigError for rules of symbols that are not traded, and for contracts that settle in another currency."""
        if untraded := self.untraded_instruments():
            close = difflib.get_close_matches(untraded[0], self.market.symbols, n=1)
            raise ConfigError(
                f"instruments.{untraded[0]} is not traded, so its rules apply to nothing",
                hint=f"did you mean instruments.{close[0]}?"
                if close
                else f"market.symbols are {', '.join(self.market.symbols)}",
            )
        if self.market.category == "linear":
            currency = self.account.currency
            foreign = next(
                (symbol for symbol in self.market.symbols if not symbol.partition("-")[0].endswith(currency)),
                None,
            )
            if foreign is not None:
                raise ConfigError(
                    f"market.symbols: {foreign} does not settle in {currency}, which is the account's currency",
                    hint=f"name perpetuals such as BTC{currency}",
                )

    def token_file(self) -> Path:
        """Where the token of the control port is."""
        return (
            Path(self.control.token_file) if self.control.token_file else self.live.folder / "control.token"
        )

    def dashboard_token_file(self) -> Path:
        """Where the token of the dashboard is."""
        return self.dashboard.token_file or self.live.folder / "dashboard.token"

    def recorded(self) -> dict[str, Any]:
        """What a run keeps of it: not the store's URL or the feeds', which may hold a secret, nor who looks on and what is archived."""
        beside = {"store", "news", "dashboard", "metrics", "mqtt", "workers", "notify", "archive", "backup"}
        return self.model_dump(mode="json", exclude=beside)

    def decisive(self) -> dict[str, Any]:
        """The part that the core decides by."""
        core = {"market", "account", "instruments", "signals", "fusion", "strategy", "risk", "paper"}
        execution = self.execution.testnet.model_dump(mode="json", include={"foreign", "wallet_drift"})
        return self.model_dump(mode="json", include=core) | {
            "execution": {"mode": self.execution.mode, **execution}
        }


def load(path: Path | None = None) -> Config:
    """The configuration of `path`, else of ./config.toml, else the defaults that ship with the program.

    Relative paths in it start from the folder of the file; in the defaults, from the working folder. Raises ConfigError naming file,
    key and what would be right.
    """
    folder = Path() if path is None else path.parent
    if path is None:
        path = Path("config.toml")
        if not path.is_file():
            path = resource("config.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file {path}", hint="name one with --config, or leave it out for the defaults"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    if nested := _NESTED.search(text):  # tomllib needs memory by the square of it
        raise ConfigError(
            f"{path}: {nested[0][:40]}… is nested too deep", hint="no key has more than a few parts"
        )
    try:
        raw = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, or thousands of brackets, too
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    refuse_variables(raw, str(path))
    config = parse(raw, where=str(path))
    _check_written(config, raw, str(path))
    return config if folder.resolve() == Path.cwd() else _anchored(config, folder)


def _check_written(config: Config, raw: dict[str, Any], where: str) -> None:
    """What a person writes is held to more than what a run has recorded: names as venues write them, fractions that can be."""
    category = config.market.category
    check_symbols(f"{where}: market.symbols", config.market.symbols, category=category)
    check_symbols(f"{where}: instruments", raw.get("instruments", ()), category=category)
    check_fractions(where, config)
    check_limits(where, config.risk, raw.get("risk", {}))


def _anchored(section: Any, folder: Path) -> Any:
    """The section with relative paths made relative to `folder`."""
    changed: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            changed[name] = _anchored(value, folder)
        elif isinstance(value, Path):
            changed[name] = _under(folder, value)
        elif isinstance(section, StrategyConfig) and name == "name":
            module, colon, class_name = value.partition(":")
            changed[name] = (
                f"{_under(folder, Path(module))}{colon}{class_name}" if module.endswith(".py") else value
            )
        elif value and (type(section), name) in _PATHS:
            changed[name] = (
                tuple(_text_under(folder, one) for one in value)
                if isinstance(value, tuple)
                else _text_under(folder, value)
            )
    return section.model_copy(update=changed)


def _under(folder: Path, path: Path) -> Path:
    path = path.expanduser()
    return path if path.is_absolute() else folder / path


def _text_under(folder: Path, text: str) -> str:
    """A path; `SYMBOL=PATH`; the file of an SQLite URL. A built-in model's name and other addresses stay as they are."""
    scheme, separator, rest = text.partition(":///")
    if separator and scheme == "sqlite" and rest and not rest.startswith((":memory:", "file:")):
        return f"sqlite:///{_under(folder, Path(rest))}"
    symbol, equals, path = text.partition("=")
    if equals and is_symbol(symbol):
        return f"{symbol}={_under(folder, Path(path))}"
    if ":" in text.partition("/")[0] or text in _BUILT_IN_MODELS:
        return text
    return str(_under(folder, Path(text)))


_BUILT_IN_MODELS: Final = ("starter",)
_PATHS: Final = {
    (StoreConfig, "url"), (ModelConfig, "path"), (FusionConfig, "path"), (ControlConfig, "token_file"),
    (HistoryConfig, "klines"), (HistoryConfig, "news"), (HistoryConfig, "sentiment"), (HistoryConfig, "funding"),
}  # fmt: skip
"""Settings that are paths though they are texts."""


def parse(raw: dict[str, Any], *, where: str) -> Config:
    """Validate a nested mapping; `where` names its origin in errors."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        items = error.errors()
        hint = next((found for item in items if (found := fraction_hint(item))), "")
        raise ConfigError("; ".join(_explain(item, where) for item in items), hint=hint) from None


def _explain(item: Any, where: str) -> str:
    path = tuple(str(part) for part in item["loc"])
    key = ".".join(path)
    if item["type"] != "extra_forbidden":
        return f"{where}: {key}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}"
    close = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
    advice = f"; did you mean {'.'.join((*path[:-1], close[0]))}?" if close else ""
    return f"{where}: unknown key {key}{advice}"


def _known_keys(path: tuple[str, ...]) -> list[str]:
    """The keys of the section at `path`, through tables and lists of sections."""
    section: Any = Config
    for part in path:
        inside = get_args(section)  # of a table or a list; `part` is then a name or an index
        section = (
            next(kind for kind in inside if kind not in (str, ...))
            if inside
            else section.model_fields[part].annotation
        )
    return list(section.model_fields)
