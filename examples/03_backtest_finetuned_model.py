"""Backtest a fine-tuned model on minute bars of crypto and on daily bars of SPY.

    # The shipped starter model
    python examples/03_backtest_finetuned_model.py

    # The model that example 01 has exported
    python examples/03_backtest_finetuned_model.py --model var/examples/sentiment-onnx

    # Your own bars and headlines of SPY
    python examples/03_backtest_finetuned_model.py --spy SPY-1d.csv --spy-news spy-headlines.csv

Crypto uses the sample data: a day and a half of real prices with headlines written for the project. Without
files, SPY uses synthetic data. Neither result is evidence for the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from synthetic import spy

from agent.system.resources import resource
from tapewire import BacktestResult, FileDataLoader, SentimentBacktester, SentimentSignalGenerator

NEXT_DAY = {
    "market": {"category": "equity"},
    "account": {"currency": "USD"},
    "paper": {"latency": 0},  # orders decided at a close are filled at the next open
    "signals": {"half_life": "1d", "window": "1d"},  # headlines expire after one day
    "strategy": {"params": {"allow_short": True}},
    "history": {"timezone": "UTC"},  # time zone of dates without one
}
"""Settings that trade the headlines of a day at its close and hold the position over the next day."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter", help="starter, or an exported folder")
    parser.add_argument("--spy", type=Path, help="daily bars: date, open, high, low, close, volume")
    parser.add_argument("--spy-news", type=Path, help="headlines: published_at, title, currencies (SPY)")
    parser.add_argument("--reports", type=Path, default=Path("var/examples"))
    parser.add_argument(
        "--allow-leakage",
        action="store_true",
        help="run even if the model was trained on data of the same period",
    )
    args = parser.parse_args()

    generator = SentimentSignalGenerator.from_pretrained(args.model)

    loader = FileDataLoader()
    prices = {symbol: loader.get_klines(symbol, "1m", 10_000) for symbol in ("BTCUSDT", "ETHUSDT")}
    headlines = pd.read_csv(resource("sample_data") / "headlines.csv")
    crypto = SentimentBacktester(
        generator,
        initial_capital=10_000,
        position_size=0.1,
        confidence_threshold=0.7,
        allow_leakage=args.allow_leakage,
    )
    show("Crypto", crypto.run(prices, headlines, signal_aggregation="weighted"), args.reports / "crypto.html")

    made_up = spy()
    bars, news = args.spy or made_up[0], args.spy_news or made_up[1]
    equity = SentimentBacktester(
        generator,
        initial_capital=100_000,
        position_size=0.5,
        confidence_threshold=0.6,
        settings=NEXT_DAY,
        allow_leakage=args.allow_leakage,
    )
    show("SPY" if args.spy else "SPY (made up)", equity.run({"SPY": bars}, news), args.reports / "spy.html")


def show(title: str, result: BacktestResult, page: Path) -> None:
    """Print the verdict and the figures, and write the report to `page`."""
    print(f"\n{title}: {result.verdict.headline}")
    for sentence in (*result.verdict.sentences, *(f"! {warning}" for warning in result.verdict.warnings)):
        print(f"  {sentence}")
    for said in result.data.evidence.outcomes:
        print(
            f"  {said.count} {said.kind} named the direction rightly {said.accuracy.value:.1%} of the time, "
            f"chance {said.chance:.1%}"
        )
    print(f"  {result.report(page)}; tapewire verify {result.run.id}")


if __name__ == "__main__":
    main()
