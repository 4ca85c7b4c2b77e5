"""Files of a new project and of a new strategy, from the templates in this package."""

from __future__ import annotations

import json
import keyword
import re
import shlex
from pathlib import Path
from typing import Any, Final

from agent.core.errors import UsageError, did_you_mean
from agent.system.atomic import write_bytes

TEMPLATES: Final = ("sma", "news", "empty")
"""Names of the strategy templates."""

STRATEGY_FILE: Final = "strategy.py"
"""Strategy file of a new project."""

_FOLDER: Final = Path(__file__).parent / "templates"


def write_strategy(path: Path, template: str) -> tuple[Path, str]:
    """Write a strategy file; return its path and the name of its class.

    Raises UsageError if the file exists, or if it can't be imported under this name.
    """
    file = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    text, name = _strategy(file, template, shown=str(file))
    _refuse_existing([file])
    write_bytes(file, text.encode())
    return file, name


def strategy_text(name: str, template: str) -> str:
    """Return the source of a new strategy file, `name`.py. Raises as `write_strategy`."""
    return _strategy(Path(f"{name}.py"), template, shown=f"{name}.py")[0]


def write_project(folder: Path, template: str) -> list[Path]:
    """Write the files of a project and return their paths. Raises UsageError if one of them exists."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file")
    title = folder.resolve().name or "strategy"
    strategy, name = _strategy(Path(STRATEGY_FILE), template, shown=STRATEGY_FILE)
    texts = {
        "config.toml": _read("config.toml", file=STRATEGY_FILE),
        STRATEGY_FILE: strategy,
        "notebook.ipynb": _notebook(title, name, template),
        "README.md": _read("README.md", title=title, file=STRATEGY_FILE, sweep=_sweep(template)),
        ".gitignore": _read("gitignore"),
    }
    files = [folder / file for file in texts]
    _refuse_existing(files)
    for file, text in zip(files, texts.values(), strict=True):
        write_bytes(file, text.encode())
    return files


def next_commands(folder: Path) -> list[str]:
    """Return the commands to run after `write_project`, in order."""
    enter = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    return [
        *enter,
        "tapewire backtest",
        "tapewire report latest",
        "tapewire verify latest",
        f"tapewire strategy show {STRATEGY_FILE}",
    ]


def _sweep(template: str) -> str:
    return {"sma": "fast=5:30:5", "news": "weight=0.1:0.3:0.1"}.get(template, "weight=0.1,0.2")


def _strategy(file: Path, template: str, *, shown: str) -> tuple[str, str]:
    if template not in TEMPLATES:
        raise UsageError(
            f"unknown template {template!r}",
            hint=did_you_mean(template, TEMPLATES, f"one of {', '.join(TEMPLATES)}"),
        )
    words = re.findall(r"[A-Za-z0-9]+", file.stem)
    name = "".join(word[0].upper() + word[1:] for word in words)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{file.stem!r} can't be the name of a class", hint="begin it with a letter")
    if name in ("Strategy", "Params", "Market", "Kline", "Signal", "Fill", "StrategyParams", "Field"):
        name = f"My{name}"  # the file imports that name
    return _read(f"{template}.py", name=name, file=shown), name


def _read(template: str, **values: str) -> str:
    text = (_FOLDER / f"{template}.txt").read_text(encoding="utf-8")
    return text.format(**values) if values else text


def _refuse_existing(files: list[Path]) -> None:
    existing = [str(file) for file in files if file.exists() or file.is_symlink()]
    if existing:
        raise UsageError(
            f"{', '.join(existing)}: {'there already' if len(existing) == 1 else 'all there already'}",
            hint="nothing is overwritten: choose another name, or move the files away",
        )


def _notebook(title: str, name: str, template: str) -> str:
    """Return the notebook: valid JSON of format 4.5, whose cells run one after the other on sample data."""
    news = template == "news"
    loads = ["import tapewire as tw", "from tapewire import sample_data", ""]
    loads += ['klines = [sample_data("BTCUSDT-1m.csv"), sample_data("ETHUSDT-1m.csv")]']
    if news:
        loads.append('news = sample_data("headlines.csv")')
    call = "klines, news=news" if news else "klines"
    cells = [
        _markdown(f"# {title}\n\nThe strategy is `{STRATEGY_FILE}`; the data ships with Tapewire."),
        _code("\n".join(loads)),
        _code(f'result = tw.Backtest("{STRATEGY_FILE}", {call}, capital=10_000).run()\nresult'),
        _markdown("Each row is a round trip: from flat to flat in one symbol."),
        _code("result.trades.head(10)"),
        _code("result.equity.tail()"),
        _code('result.metrics["performance"]'),
        _markdown("The run is recorded: decide it again from its inputs, and write the page."),
        _code("tw.verify(result.run.id).identical"),
        _code("result.report()"),
        _markdown("A class written in a cell is a strategy, too: its source is saved beside the run."),
        _code(_CELL_STRATEGY),
        _code('tw.Backtest(Dip, klines, params={"depth": 0.01}).run()'),
    ]
    notebook = {
        "cells": [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "tapewire": {"strategy": name},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


_CELL_STRATEGY: Final = '''\
class DipParams(tw.StrategyParams):
    depth: float = 0.005  # fall over 20 bars


class Dip(tw.Strategy[DipParams]):
    """Buys after a fall and sells once the price is above where it was 20 bars ago."""

    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        move = market.features(kline.symbol).return_20
        if move < -self.params.depth:
            self.target(kline.symbol, weight=0.3, stop=-0.02)
        elif move > 0 and market.position(kline.symbol):
            self.target(kline.symbol, weight=0)
'''


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": text.splitlines(keepends=True),
    }
