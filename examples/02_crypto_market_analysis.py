"""Analyse crypto markets with Bybit's data and the sentiment of headlines.

    # Bybit's public history
    python examples/02_crypto_market_analysis.py

    # The sample data
    python examples/02_crypto_market_analysis.py --offline

    # A sandbox exchange on this machine
    tapewire sandbox --port 8080 &
    python examples/02_crypto_market_analysis.py --endpoint http://127.0.0.1:8080 --interval 1m

The sentiment model is the shipped starter; its headlines are part of this script.
"""

from __future__ import annotations

import argparse

import numpy as np

from agent.core.errors import TapewireError
from tapewire import BybitDataLoader, FileDataLoader, SentimentSignalGenerator

HEADLINES = {
    "BTCUSDT": ("Bitcoin funds draw record inflows", "Miner sells its reserve of bitcoin to pay debts"),
    "ETHUSDT": ("Ether upgrade goes live without a hitch", "Bridge to Ethereum is drained in an exploit"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", default="mainnet", help="mainnet, testnet or the URL of a sandbox")
    parser.add_argument("--offline", action="store_true", help="use the sample data")
    parser.add_argument("--interval", default="15m")
    parser.add_argument("--limit", type=int, default=500)
    args = parser.parse_args()

    loader = FileDataLoader() if args.offline else BybitDataLoader(args.endpoint)
    generator = SentimentSignalGenerator.from_pretrained("starter")

    returns = {}
    for symbol, headlines in HEADLINES.items():
        klines = loader.get_klines(symbol, args.interval, args.limit)
        close = klines["close"]
        returns[symbol] = np.log(close).diff().dropna()
        fall = close / close.cummax() - 1
        print(
            f"\n{symbol}: {len(klines)} bars of {args.interval}, {klines.index[0]:%Y-%m-%d %H:%M} to "
            f"{klines.index[-1]:%Y-%m-%d %H:%M}"
        )
        print(
            f"  close {close.iloc[-1]:,.2f}, moved {close.iloc[-1] / close.iloc[0] - 1:+.2%}, at worst "
            f"{fall.min():.2%} from its peak"
        )
        print(
            f"  a bar moves {returns[symbol].std():.3%}, the largest moved {returns[symbol].abs().max():.2%}"
        )
        signals = generator.batch_signals(headlines)
        for text, signal in zip(headlines, signals, strict=True):
            print(f"  {signal.prediction.value:4} {signal.confidence:4.0%}  {text}")
        vote = generator.aggregate_signals(signals)
        print(
            f"  together: {vote.prediction.value} at "
            f"{vote.confidence:.0%}{'' if vote.actionable else ', not enough to act on'}"
        )

    both = returns["BTCUSDT"].corr(returns["ETHUSDT"])
    print(f"\ncorrelation of their returns: {both:.2f}")


if __name__ == "__main__":
    try:
        main()
    except TapewireError as error:
        raise SystemExit(str(error)) from None
