"""The configuration: what is accepted, and what an error says."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import Config, load, parse
from agent.errors import ConfigError
from agent.resources import resource
from tests.conftest import ROOT


def test_the_file_that_ships_states_the_defaults() -> None:
    shipped = load(ROOT / "config.toml")
    stated = shipped.model_copy(update={"strategy": shipped.strategy.model_copy(update={"params": {}})})
    assert stated == Config()


ZERO = [
    ("market", "interval"),
    ("paper", "funding_interval"),
    ("signals", "story_window"),
    ("risk", "stale_after"),
    ("signals", "half_life"),
]


def test_without_a_file_the_one_that_ships_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == parse(tomllib.loads(resource("config.toml").read_text()), where="the defaults")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[markt]\n", "unknown key markt; did you mean market?"),
        ("[paper]\nlatensy = '1s'\n", "unknown key paper.latensy; did you mean paper.latency?"),
        ("[instruments.BTCUSDT]\ntik_size = 1\n", "did you mean instruments.BTCUSDT.tick_size?"),
        ("[signals]\nthreshold = 1.5\n", "signals.threshold: Input should be less than 1, got 1.5"),
        ("[signals]\nhalf_life = '5 parsecs'\n", "write a number with its unit, e.g. 250ms, 30s, 5m"),
        ("[paper]\nslippage = 'linear'\n", "Input should be 'none', 'fixed' or 'square_root'"),
        ("[market]\nsymbols = []\n", "market.symbols"),
        ("[risk\n", "is not valid TOML"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(file) in str(error.value)
    assert said in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(tmp_path / "none.toml")


def test_what_is_shown_can_be_read_again() -> None:
    config = parse({"account": {"initial_capital": "12.34"}, "paper": {"latency": "1m"}}, where="test")
    again = parse(config.model_dump(mode="json"), where="shown")
    assert again == config
    assert again.account.initial_capital == Decimal("12.34")
    assert again.paper.latency == 60_000


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[market]\nsymbols = ["btcusdt"]', "market.symbols: 'btcusdt' is no symbol", "write BTCUSDT"),
        ('[market]\nsymbols = ["BTC/USDT:USDT"]', "'BTC/USDT:USDT' is no symbol", "write BTCUSDT"),
        ('[market]\nsymbols = [""]', "'' is no symbol", "e.g. BTCUSDT"),
        ('[market]\nsymbols = ["BTCUSDT", "BTCUSDT"]', "a symbol is there twice", ""),
        ("[instruments.btcusdt]\ntick_size = 50", "instruments: 'btcusdt' is no symbol", "write BTCUSDT"),
        ("[paper]\ntaker_fee = 0.055", "paper.taker_fee: 0.055 is 5.500 %", "0.00055 is 0.055 %"),
        ("[paper]\nmaker_fee = -0.1", "paper.maker_fee: -0.1 is -10.0 %", "-0.001 is -0.1 %"),
        ("[paper]\nfunding_rate = 0.01", "paper.funding_rate: 0.01 is 1.00 %", "0.0001 is 0.01 %"),
        ("[instruments.BTCUSDT]\nmaintenance_margin = 0.5", "maintenance_margin: 0.5 is 50.0 %", "0.005 is 0.5 %"),
        ('[store]\nurl = "sqlite:///${HOME}/x.db"', "store.url: ${HOME} is not replaced", "write the value itself"),
        ('[[news.feeds]]\nname = "x"\nurl = "https://x/${KEY}"', "news.feeds.url: ${KEY} is not replaced", ""),
        *((f'[{section}]\n{key} = "0s"', f"{section}.{key}: Input should be greater than 0", "") for section, key in ZERO),
    ],
)
def test_what_nobody_can_mean_is_refused_with_the_right_form(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "c.toml")
    assert message in error.value.message
    assert hint in error.value.hint


def test_what_a_run_has_recorded_is_read_whatever_it_is() -> None:
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
def test_what_can_not_be_traded_live_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c.toml").check_live()


def test_relative_paths_start_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert load(Path("c.toml")).store.url == "sqlite:///data/x.db"  # in its own folder nothing changes
    (folder / "c.toml").write_text('[store]\nurl = "postgresql://localhost/x"\n')
    monkeypatch.chdir(tmp_path)
    assert load(Path("elsewhere/c.toml")).store.url == "postgresql://localhost/x"
    assert load(Path("elsewhere/c.toml")).model.path == "starter"
