"""The configuration: one typed section a component, validated before anything starts.

`load` reads TOML; a key that does not exist is an error naming the file, the key and the closest match.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import Field, ValidationError

from agent.config.checks import check_fractions, check_limits, check_symbols, fraction_hint, refuse_variables
from agent.config.control import ArchiveConfig, BackupConfig, ControlConfig
from agent.config.dashboard import DashboardConfig
from agent.config.execution import ExecutionConfig
from agent.config.fusion import FusionConfig
from agent.config.live import BybitConfig, LiveConfig, LogConfig, NewsConfig
from agent.config.services import MetricsConfig, MqttConfig, NotifyConfig, WorkersConfig
from agent.core.durations import Duration
from agent.core.errors import ConfigError, did_you_mean
from agent.core.settings import (
    AccountConfig,
    Category,
    CoreConfig,
    InstrumentConfig,
    MarketConfig,
    PaperConfig,
    RiskConfig,
    Section,
    SignalsConfig,
    StrategyConfig,
)
from agent.core.symbol_names import is_symbol
from agent.system.backoff import BackoffConfig
from agent.system.resources import resource

__all__ = [
    "AccountConfig",
    "Category",
    "Config",
    "InstrumentConfig",
    "MarketConfig",
    "PaperConfig",
    "RiskConfig",
    "SignalsConfig",
    "StrategyConfig",
    "load",
    "parse",
]
_NESTED: Final = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


class HistoryConfig(Section):
    """Replay: when history became known."""

    feed_delay: Duration = 60_000  # publication to first seen
    inference_latency: Duration = 250  # first seen to scored
    # bar files to replay if the command line names none; if there are none here either, the sample data
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


class Config(CoreConfig):
    """The whole file."""

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

    def untraded_instruments(self) -> tuple[str, ...]:
        """The symbols of `instruments` that are not traded, so that their rules apply to nothing."""
        return tuple(symbol for symbol in self.instruments if symbol not in self.market.symbols)

    def check_live(self) -> None:
        """Raises ConfigError for rules of symbols that are not traded, and for contracts that settle in another currency."""
        if untraded := self.untraded_instruments():
            raise ConfigError(
                f"instruments.{untraded[0]} is not traded, so its rules apply to nothing",
                hint=did_you_mean(untraded[0], self.market.symbols, prefix="instruments.")
                or f"market.symbols are {', '.join(self.market.symbols)}",
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

    def deterministic_subset(self) -> dict[str, Any]:
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
    meant = did_you_mean(path[-1], _known_keys(path[:-1]), prefix=key.removesuffix(path[-1]))
    return f"{where}: unknown key {key}{f'; {meant}' if meant else ''}"


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
