"""Configuration: one typed section per component, validated before anything starts.

`load` reads TOML. An unknown key is an error that names the file, the key and the closest match.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import Field, ValidationError

from agent.config.checks import (
    check_fractions,
    check_limits,
    check_sleeves,
    check_symbols,
    fraction_hint,
    refuse_variables,
)
from agent.config.control import ArchiveConfig, BackupConfig, ControlConfig
from agent.config.costs import CostsConfig, TwinConfig
from agent.config.execution import ExecutionConfig
from agent.config.live import BybitConfig, LiveConfig, LogConfig, NewsConfig
from agent.config.llm import LlmConfig
from agent.config.services import (
    ApiConfig,
    DashboardConfig,
    JobsConfig,
    McpConfig,
    MetricsConfig,
    MonitoringConfig,
    MqttConfig,
    NotifyConfig,
    RemoteAgentConfig,
    TelegramConfig,
    WorkersConfig,
)
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
    SleeveConfig,
    StrategyConfig,
)
from agent.core.symbol_names import is_symbol
from agent.system.backoff import BackoffConfig
from agent.system.resources import resource

__all__ = [
    "NOT_PERSISTED",
    "AccountConfig",
    "Category",
    "Config",
    "FusionConfig",
    "InstrumentConfig",
    "MarketConfig",
    "PaperConfig",
    "RiskConfig",
    "SignalsConfig",
    "SleeveConfig",
    "StrategyConfig",
    "load",
    "parse",
]
NOT_PERSISTED: Final = (
    *("dashboard", "api", "jobs", "mcp", "metrics", "mqtt", "workers", "notify", "telegram", "agents"),
    *("store", "news", "archive", "backup"),
)
"""Sections that are not stored with a run: no URLs, which may hold secrets, and no services."""

_NESTED: Final = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


class HistoryConfig(Section):
    """Replay: input files, and the delays after which their content was known."""

    feed_delay: Duration = 60_000  # from publication to first seen
    inference_latency: Duration = 250  # from first seen to scored
    revision_latency: Duration = 5_000  # from there to the score of model.revise_with
    # default of --klines; if both are empty, the sample data is replayed
    klines: tuple[str, ...] = ()
    news: str = ""  # file of headlines
    sentiment: str = ""  # file of scored headlines
    funding: str = ""  # file of funding rates
    timezone: str = ""  # of naive times in these files


class StoreConfig(Section):
    """The database that records everything."""

    url: str = "sqlite:///var/tapewire.db"
    # a store that can't be written halts the agent's trading, and ends the agent after this time
    patience: Duration = 1_800_000
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=10_000)  # of writes, during `patience`
    # how often the core's state is saved, so that a restart takes seconds; 0: never
    snapshot_every: Duration = 900_000
    # length of a journal segment of a live run; finished ones are moved to archive.folder; 0: one segment
    segment: Duration = 2_592_000_000
    snapshots: int = Field(3, gt=0)  # snapshots kept, besides those at the beginning of a segment


class ModelConfig(Section):
    """The sentiment model: `starter`, a folder made by `tapewire export`, a language model at a server
    (`openai:URL#MODEL`), or several (`ensemble:FOLDER`).
    """

    path: str = "starter"
    threads: int = Field(0, ge=0)  # 0: all cores
    revise_with: str = ""  # slower model that revises each score of `path`; empty: none
    revise_within: Duration = 30_000  # a later revision is dropped and counted


class FusionConfig(Section):
    """The model that predicts from prices and news: a folder made by `tapewire train fusion`."""

    path: str = ""  # empty: none


class Config(CoreConfig):
    """The whole configuration file."""

    history: HistoryConfig = HistoryConfig()
    store: StoreConfig = StoreConfig()
    model: ModelConfig = ModelConfig()
    llm: LlmConfig = LlmConfig()
    fusion: FusionConfig = FusionConfig()
    execution: ExecutionConfig = ExecutionConfig()
    costs: CostsConfig = CostsConfig()
    twin: TwinConfig = TwinConfig()
    bybit: BybitConfig = BybitConfig()
    news: NewsConfig = NewsConfig()
    live: LiveConfig = LiveConfig()
    control: ControlConfig = ControlConfig()
    log: LogConfig = LogConfig()
    dashboard: DashboardConfig = DashboardConfig()
    api: ApiConfig = ApiConfig()
    jobs: JobsConfig = JobsConfig()
    mcp: McpConfig = McpConfig()
    metrics: MetricsConfig = MetricsConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    mqtt: MqttConfig = MqttConfig()
    workers: WorkersConfig = WorkersConfig()
    notify: NotifyConfig = NotifyConfig()
    telegram: TelegramConfig = TelegramConfig()
    agents: tuple[RemoteAgentConfig, ...] = Field((), max_length=50)
    archive: ArchiveConfig = ArchiveConfig()
    backup: BackupConfig = BackupConfig()

    def untraded_instruments(self) -> tuple[str, ...]:
        """Return the symbols of `instruments` that are not traded, so their rules have no effect."""
        return tuple(symbol for symbol in self.instruments if symbol not in self.market.symbols)

    def check_live(self) -> None:
        """Raise ConfigError for rules of an untraded symbol, a contract that settles in another currency, and
        a twin of a run on paper.
        """
        symbols = self.market.symbols
        if untraded := self.untraded_instruments():
            raise ConfigError(
                f"instruments.{untraded[0]} is not traded, so its rules have no effect",
                hint=did_you_mean(untraded[0], symbols, prefix="instruments.")
                or f"market.symbols are {', '.join(symbols)}",
            )
        if self.twin.enabled and self.execution.mode == "paper":
            raise ConfigError(
                "twin.enabled is true, but the run trades on paper and has no twin",
                hint='leave it out, or set execution.mode = "testnet"',
            )
        if self.market.category == "linear":
            currency = self.account.currency
            foreign = next((one for one in symbols if not one.partition("-")[0].endswith(currency)), None)
            if foreign is not None:
                raise ConfigError(
                    f"market.symbols: {foreign} does not settle in {currency}, the account's currency",
                    hint=f"name perpetuals such as BTC{currency}",
                )

    def token_file(self) -> Path:
        """Return the file of the control port's token."""
        return Path(self.control.token_file or self.live.folder / "control.token")

    def dashboard_token_file(self) -> Path:
        """Return the file of the dashboard's token."""
        return self.dashboard.token_file or self.live.folder / "dashboard.token"

    def api_token_file(self) -> Path:
        """Return the file with the hashes of the API's tokens."""
        return self.api.token_file or self.dashboard_token_file().with_name("api-tokens.json")

    def persisted(self) -> dict[str, Any]:
        """Return the part that is stored with a run: all but `NOT_PERSISTED`."""
        return self.model_dump(mode="json", exclude=set(NOT_PERSISTED))

    def deterministic_subset(self) -> dict[str, Any]:
        """Return the part that affects the core's decisions."""
        core = {"market", "account", "instruments", "signals", "fusion", "strategy", "risk", "paper"}
        execution = self.execution.testnet.model_dump(mode="json", include={"foreign", "wallet_drift"})
        execution["mode"] = self.execution.mode
        sleeves = {"sleeves"} if self.sleeves else set()  # without any, the subset is as it was before them
        return self.model_dump(mode="json", include=core | sleeves) | {"execution": execution}


_given: list[Config] = []


def give(config: Config) -> None:
    """Have `load` without a path return `config` in this process, a job of a server with it."""
    _given[:] = [config]


def load(path: Path | None = None) -> Config:
    """Load the configuration of `path`, else of ./config.toml, else the defaults that ship with the program.

    Relative paths start from the file's folder; in the shipped defaults, from the working folder. Raises
    ConfigError that names the file, the key and the remedy.
    """
    if path is None and _given:
        return _given[0]
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
    if nested := _NESTED.search(text):  # tomllib's memory grows with the square of the depth
        raise ConfigError(
            f"{path}: {nested[0][:40]}… is nested too deep", hint="no key has more than a few parts"
        )
    try:
        raw = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also numbers of thousands of digits, thousands of brackets
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    refuse_variables(raw, str(path))
    config = parse(raw, where=str(path))
    _check_file(config, raw, str(path))
    return config if folder.resolve() == Path.cwd() else _anchored(config, folder)


def _check_file(config: Config, raw: dict[str, Any], where: str) -> None:
    """Check what a recorded configuration need not satisfy: venue symbols, plausible fractions."""
    category = config.market.category
    check_symbols(f"{where}: market.symbols", config.market.symbols, category=category)
    check_symbols(f"{where}: instruments", raw.get("instruments", ()), category=category)
    check_fractions(where, config)
    check_limits(where, config.risk, raw.get("risk", {}))
    check_sleeves(where, config, raw)


def _anchored(section: Any, folder: Path) -> Any:
    """Return the section with its relative paths resolved from `folder`."""
    changed: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            changed[name] = _anchored(value, folder)
        elif name in ("sleeves", "agents"):
            changed[name] = tuple(_anchored(one, folder) for one in value)
        elif isinstance(value, Path):
            changed[name] = _resolve(folder, value)
        elif isinstance(section, StrategyConfig) and name == "name":
            module, colon, class_name = value.partition(":")
            if module.endswith(".py"):
                changed[name] = f"{_resolve(folder, Path(module))}{colon}{class_name}"
        elif value and name in _TEXT_PATHS.get(type(section), ()):
            is_tuple = isinstance(value, tuple)
            changed[name] = (
                tuple(_resolve_text(folder, one) for one in value)
                if is_tuple
                else _resolve_text(folder, value)
            )
    return section.model_copy(update=changed)


def _resolve(folder: Path, path: Path) -> Path:
    path = path.expanduser()
    return path if path.is_absolute() else folder / path


def _resolve_text(folder: Path, text: str) -> str:
    """Resolve a path, `SYMBOL=PATH` or an SQLite URL; leave built-in models and other addresses."""
    scheme, separator, rest = text.partition(":///")
    if separator and scheme == "sqlite" and rest and not rest.startswith((":memory:", "file:")):
        return f"sqlite:///{_resolve(folder, Path(rest))}"
    symbol, equals, path = text.partition("=")
    if equals and is_symbol(symbol):
        return f"{symbol}={_resolve(folder, Path(path))}"
    if ":" in text.partition("/")[0] or text in _BUILT_IN_MODELS:
        return text
    return str(_resolve(folder, Path(text)))


_BUILT_IN_MODELS: Final = ("starter",)
_TEXT_PATHS: Final[dict[type, tuple[str, ...]]] = {
    StoreConfig: ("url",),
    ModelConfig: ("path",),
    FusionConfig: ("path",),
    ControlConfig: ("token_file",),
    HistoryConfig: ("klines", "news", "sentiment", "funding"),
    JobsConfig: ("data",),
}
"""Settings of type str that hold paths."""


def parse(raw: dict[str, Any], *, where: str) -> Config:
    """Validate a nested mapping; `where` names its origin in errors. Raises ConfigError."""
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
    """Return the keys of the section at `path`, which may pass through tables and lists of sections."""
    section: Any = Config
    for part in path:
        inside = get_args(section)  # of a table or a list; `part` is then a name or an index
        kinds = [kind for kind in inside if kind not in (str, ...)]
        section = kinds[0] if kinds else section.model_fields[part].annotation
    return list(section.model_fields)
