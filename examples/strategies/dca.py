"""Dollar-cost averaging: a part of the capital at fixed times, twice as much below the average price."""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams

HOUR_MS = 3_600_000


class Params(StrategyParams):
    hours: int = Field(4, ge=1, le=720)  # between two purchases
    part: float = Field(0.02, gt=0, le=0.5)  # of equity, for each purchase
    dip: float = Field(0.01, gt=0, lt=0.5)  # below the average entry price; doubles the purchase
    most: float = Field(0.45, gt=0, le=1)  # fraction of equity, in each symbol


class Dca(Strategy[Params]):
    """Buys `part` of equity every `hours`, up to `most`, and never sells."""

    intervals = ("1h",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        if bar.ts // HOUR_MS % params.hours:
            return
        dip = bar.close < held.entry_price * (1 - params.dip)  # False while flat: the price is then NaN
        part = params.part * (2 if dip else 1)
        if market.weight(symbol) + part > params.most:
            self.notify(f"{symbol} has its share: nothing is bought")
            return
        # A quantity: changes of a weight are left out below `paper.rebalance_band`, 10 % of the position
        qty = held + part * market.equity / bar.close
        self.target(symbol, qty=qty, reason="below the average price" if dip else "due")
