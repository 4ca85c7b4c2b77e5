"""The configuration: accepted values and error messages."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import Config, load, parse
from agent.core.errors import ConfigError
from agent.system.resources import resource
from tests.conftest import ROOT


def test_the_shipped_file_states_the_defaults() -> None:
    shipped = load(ROOT / "config.toml")
    stated = shipped.model_copy(update={"strategy": shipped.strategy.model_copy(update={"params": {}})})
    assert stated == Config()


@pytest.mark.parametrize(
    ("section", "key"), [("risk", "max_leverage"), ("paper", "half_spread_bps"), ("risk", "max_position")]
)
def test_infinite_numbers_are_refused(section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}.{key}: Input should be a finite number"):
        parse({section: {key: float("inf")}}, where="test")


ZERO = [
    ("market", "interval"),
    ("paper", "funding_interval"),
    ("signals", "story_window"),
    ("risk", "stale_after"),
    ("signals", "half_life"),
    *(
        (f"{of}.{wait}", key)
        for of, wait in (
            ("bybit", "reconnect"),
            ("store", "retry"),
            ("mqtt", "reconnect"),
            ("live", "restart"),
        )
        for key in ("first", "ceiling", "stable_after")
    ),
    ("bybit", "ban_wait"),
    ("bybit", "throttle_wait"),
    ("bybit", "backfill_timeout"),
    ("execution.testnet", "ban_wait"),
    ("execution.testnet", "max_skew"),
    ("news", "ancient_after"),
    ("live", "score_within"),
]
"""Durations that must not be 0: a wait of 0 is a busy loop, a limit of 0 admits nothing."""


def test_the_shipped_file_is_used_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == parse(tomllib.loads(resource("config.toml").read_text()), where="the defaults")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[markt]\n", "unknown key markt; did you mean market?"),
        ("[paper]\nlatensy = '1s'\n", "unknown key paper.latensy; did you mean paper.latency?"),
        ("[instruments.BTCUSDT]\ntik_size = 1\n", "did you mean instruments.BTCUSDT.tick_size?"),
        ("[signals]\nthreshold = 1.5\n", "signals.threshold: Input should be less than 1, got 1.5"),
        ("[signals]\nhalf_life = '5 parsecs'\n", "write a number with its unit, e.g. 250ms, 30s, 5m"),
        (
            "[signals]\nkinds = ['prices']\n",
            "signals.kinds: unknown kind of news prices; did you mean price?",
        ),
        (
            "[signals]\nkinds = ['hack']\n",
            "unknown kind of news hack; the kinds are failure, regulation, macro",
        ),
        ("[signals]\nkinds = []\n", "signals.kinds: Tuple should have at least 1 item"),
        ("[paper]\nslippage = 'linear'\n", "Input should be 'none', 'fixed' or 'square_root'"),
        ("[market]\nsymbols = []\n", "market.symbols"),
        ("[risk\n", "is not valid TOML"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(tmp_path / "none.toml")


def test_a_dumped_configuration_can_be_parsed() -> None:
    config = parse({"account": {"initial_capital": "12.34"}, "paper": {"latency": "1m"}}, where="test")
    again = parse(config.model_dump(mode="json"), where="shown")
    assert again == config
    assert again.account.initial_capital == Decimal("12.34")
    assert again.paper.latency == 60_000


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[market]\nsymbols = ["btcusdt"]', "market.symbols: 'btcusdt' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["BTC/USDT:USDT"]', "'BTC/USDT:USDT' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = [""]', "'' is not a symbol", "e.g. BTCUSDT"),
        ('[market]\nsymbols = ["BTCUSDT", "BTCUSDT"]', "a symbol occurs twice", ""),
        ("[instruments.btcusdt]\ntick_size = 50", "instruments: 'btcusdt' is not a symbol", "write BTCUSDT"),
        ("[paper]\ntaker_fee = 0.055", "paper.taker_fee: 0.055 is 5.500 %", "0.00055 is 0.055 %"),
        ("[paper]\nmaker_fee = -0.1", "paper.maker_fee: -0.1 is -10.0 %", "-0.001 is -0.1 %"),
        ("[paper]\nfunding_rate = 0.01", "paper.funding_rate: 0.01 is 1.00 %", "0.0001 is 0.01 %"),
        (
            "[instruments.BTCUSDT]\nmaintenance_margin = 0.5",
            "maintenance_margin: 0.5 is 50.0 %",
            "0.005 is 0.5 %",
        ),
        (
            '[store]\nurl = "sqlite:///${HOME}/x.db"',
            "store.url: ${HOME} is not replaced",
            "write the value itself",
        ),
        (
            '[[news.feeds]]\nname = "x"\nurl = "https://x/${KEY}"',
            "news.feeds.url: ${KEY} is not replaced",
            "",
        ),
        *(
            (f'[{section}]\n{key} = "0s"', f"{section}.{key}: Input should be greater than 0", "")
            for section, key in ZERO
        ),
    ],
)
def test_impossible_settings_are_refused_with_a_hint(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "c.toml")
    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        # Percentages of usual fees and rates: 0.02 % = 0.0002, 0.01 % = 0.0001, 0.005 % = 0.00005
        ("[paper]\nmaker_fee = 0.02", "paper.maker_fee: 0.02 is 2.00 %", "0.0002 is 0.02 %"),
        ("[paper]\nmaker_fee = 0.01", "paper.maker_fee: 0.01 is 1.00 %", "0.0001 is 0.01 %"),
        ("[paper]\ntaker_fee = 0.02", "paper.taker_fee: 0.02 is 2.00 %", "0.0002 is 0.02 %"),
        ("[paper]\nfunding_rate = 0.005", "paper.funding_rate: 0.005 is 0.500 %", "0.00005 is 0.005 %"),
        ("[signals]\nfade_below = 25", "signals.fade_below: 25.0 is 2500.0 %", "0.25 is 25.0 %"),
        ("[bybit]\nmax_jump = 10", "bybit.max_jump: 10.0 is 1000.0 %", "0.1 is 10.0 %"),
        # Fractions above 1: 5 / 100 = 0.05
        (
            "[risk]\nmax_daily_loss = 5",
            "risk.max_daily_loss: Input should be less than or equal to 1",
            "0.05 is 5 %",
        ),
        ("[signals]\nthreshold = 70", "signals.threshold: Input should be less than 1", "0.7 is 70 %"),
        ("[paper]\nmax_participation = 10.0", "paper.max_participation: ", "0.1 is 10 %"),
        ("[news]\njitter = 500", "news.jitter: ", "0.05 is 5 %"),
        # the total leverage is 1, so one symbol has at most 1, and an order from -1 to +1 is 2
        (
            "[risk]\nmax_position = 100",
            "risk.max_position: 100 is never reached: risk.max_leverage is 1",
            "max_position = 1",
        ),
        (
            "[risk]\nmax_order = 2.5",
            "risk.max_order: 2.5 is never reached: twice risk.max_leverage is 2",
            "max_leverage = 1.25",
        ),
        # symbols in the notation of other programs
        ('[market]\nsymbols = ["BINANCE:BTCUSDT"]', "'BINANCE:BTCUSDT' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["BTC/USDT:USDT"]', "'BTC/USDT:USDT' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["btc-usdt"]', "'btc-usdt' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["BTC-USDT"]', "'BTC-USDT' is not a symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["BYBIT:BTCUSDT.P"]', "'BYBIT:BTCUSDT.P' is not a symbol", "write BTCUSDT"),
        (
            '[instruments."BTC/USDT"]\ntick_size = 1',
            "instruments: 'BTC/USDT' is not a symbol",
            "write BTCUSDT",
        ),
        # shell variables at the beginning of a path
        ('[store]\nurl = "sqlite:///$HOME/x.db"', "store.url: $HOME is not replaced", "~ stands for"),
        ('[live]\nfolder = "$TAPEWIRE/var"', "live.folder: $TAPEWIRE is not replaced", "~ stands for"),
        (
            '[history]\nklines = ["BTCUSDT=$DATA/btc.csv"]',
            "history.klines: $DATA is not replaced",
            "~ stands for",
        ),
        ('[mqtt]\nusername = "$MQTT_USER"', "mqtt.username: $MQTT_USER is not replaced", "write the value"),
    ],
)
def test_probable_mistakes_are_refused_with_a_hint(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    test_impossible_settings_are_refused_with_a_hint(tmp_path, text, message, hint)


@pytest.mark.parametrize(
    "text",
    [
        "[paper]\nmaker_fee = 0.006\ntaker_fee = 0.012",  # the first tier of Coinbase Advanced
        "[paper]\nmaker_fee = -0.0001\nfunding_rate = 0.003",
        "[risk]\nmax_leverage = 0.5",  # defaults are not refused
        "[risk]\nmax_leverage = 3\nmax_position = 3\nmax_order = 6",
        "[risk]\nmax_daily_loss = 1",
        '[store]\nurl = "postgresql://user:$ecret@localhost/db?password=$ecret"',
        '[instruments.LINKUSDT]\naliases = ["$LINK"]\n[signals]\nmacro_keywords = ["$DXY"]',
        '[[news.feeds]]\nurl = "https://localhost/x"\nname = "$MONEY daily"\ncurrencies = ["$BTC"]',
        '[live]\nfolder = "var/a$b"',
        '[market]\nsymbols = ["BTCUSDT-27DEC30", "BTCPERP", "1000PEPEUSDT"]',
        '[market]\nsymbols = ["BTC-USD", "BRK-B", "^GSPC", "EURUSD=X"]\ncategory = "equity"',
    ],
)
def test_unusual_but_valid_settings_are_accepted(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    load(tmp_path / "c.toml")


def test_a_recorded_configuration_need_not_pass_the_checks() -> None:
    recorded = {
        "market": {"symbols": ["NASDAQ:AAPL"]},
        "paper": {"taker_fee": "0.05"},
        "instruments": {"btcusdt": {"tick_size": 1}},
    }
    assert parse(recorded, where="a run").instruments.keys() == {"BTCUSDT"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[instruments.SOLUSDT]\ntick_size = 1", "instruments.SOLUSDT is not traded"),
        ('[market]\nsymbols = ["BTCPERP"]', "BTCPERP does not settle in USDT"),
        ('[market]\nsymbols = ["BTCUSD"]', "BTCUSD does not settle in USDT"),
        ('[market]\nsymbols = ["BTCUSDT", "BTC-27DEC30"]', "BTC-27DEC30 does not settle in USDT"),
    ],
)
def test_symbols_that_cannot_be_traded_live_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c.toml").check_live()


def test_relative_paths_start_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "c.toml").write_text(
        '[store]\nurl = "sqlite:///data/x.db"\n[live]\nfolder = "run"\n[model]\npath = "models/mine"\n'
        '[history]\nklines = ["SPY=spy.csv", "BTCUSDT.csv", "/abs/ETHUSDT.csv"]\nnews = "news.csv"\n'
        '[execution.testnet]\nkey_file = "~/keys"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = load(Path("elsewhere/c.toml"))
    assert config.store.url == "sqlite:///elsewhere/data/x.db"
    assert config.live.folder == Path("elsewhere/run")
    assert config.model.path == "elsewhere/models/mine"
    assert config.history.klines == ("SPY=elsewhere/spy.csv", "elsewhere/BTCUSDT.csv", "/abs/ETHUSDT.csv")
    assert config.history.news == "elsewhere/news.csv"
    assert config.history.sentiment == ""
    assert config.execution.testnet.key_file == Path("~/keys").expanduser()
    monkeypatch.chdir(folder)
    assert (
        load(Path("c.toml")).store.url == "sqlite:///data/x.db"
    )  # in the file's folder, paths are unchanged
    (folder / "c.toml").write_text('[store]\nurl = "postgresql://localhost/x"\n')
    monkeypatch.chdir(tmp_path)
    assert load(Path("elsewhere/c.toml")).store.url == "postgresql://localhost/x"
    assert load(Path("elsewhere/c.toml")).model.path == "starter"
