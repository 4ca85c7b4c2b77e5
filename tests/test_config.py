"""The configuration: what is accepted, and what an error says."""

from __future__ import annotations

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


def test_without_a_file_the_one_that_ships_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == load(resource("config.toml"))


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
