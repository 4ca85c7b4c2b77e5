"""The result of a backtest in Python: frames, figures, report and chart of a recorded run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.analysis.report.verdict import Verdict, verdict_of
from agent.analysis.run_metrics import Metrics
from agent.analysis.trades import RoundTrip
from agent.core.events import Side
from agent.store.database import open_database
from agent.store.queries import read_frame
from agent.store.runs import Run

if TYPE_CHECKING:
    import pandas as pd

    from agent.analysis.deflation import StudyStanding
    from agent.analysis.report.chart_page import ChartPage
    from agent.analysis.report.report_data import ReportData

_CENT: Final = Decimal("0.005")


class Figures(dict[str, Any]):
    """A dictionary of figures whose keys are attributes, too: `metrics["performance"]["sharpe"]` is
    `metrics.performance.sharpe`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @classmethod
    def of(cls, value: Any) -> Any:
        """Convert nested dictionaries."""
        return cls({key: cls.of(one) for key, one in value.items()}) if isinstance(value, dict) else value


class BacktestResult:
    """A finished run. It is recorded: `tapewire report` and `tapewire verify` know it by `run.id`.

    `notes` state what of the inputs was not used, and what else to know. `standing` has the deflated Sharpe
    ratio over all tries on the same data.
    """

    def __init__(
        self,
        run: Run,
        metrics: Metrics,
        notes: list[str],
        store: str,
        *,
        standing: StudyStanding | None = None,
    ) -> None:
        self.run, self.notes = run, notes
        self.standing = standing
        self._metrics = metrics
        self._store = store

    @cached_property
    def metrics(self) -> Figures:
        """All figures, as in `tapewire backtest --json`; their definitions are in docs/report.md."""
        found: Figures = Figures.of(msgspec.to_builtins(self._metrics))
        return found

    @cached_property
    def data(self) -> ReportData:
        """All that the report is made of."""
        from agent.analysis.report.report_loader import load_report_data

        with closing(open_database(self._store, create=False)) as database:
            return load_report_data(database, self.run.id)

    @property
    def verdict(self) -> Verdict:
        """The result in words, with warnings."""
        return verdict_of(self.data)

    @cached_property
    def trades(self) -> pd.DataFrame:
        """One row for each round trip, from flat to flat in one symbol, in order of exit.

        Columns: symbol, side, qty, entry_time, exit_time (UTC), entry_price, exit_price (averages), profit
        (after fees and funding), profit_pct (of the value entered, in percent), fees, funding (negative if
        paid), slippage (part of the prices), duration, entry_reason, exit_reason, open. The last rows may be
        open: their profit values the position at the last close. The profits add up to the change of the
        account.
        """
        return trades_frame(self.data.trades, self._metrics)

    @cached_property
    def equity(self) -> pd.DataFrame:
        """The account by time (UTC): equity, cash, exposure (value of all positions) and drawdown (<= 0).

        One row an hour, and the last bar.
        """
        import pandas as pd

        rows = self._read("equity").drop(columns="seq")
        end, final = self._metrics.end, self._metrics.final_equity
        if self._metrics.periods and (rows.empty or int(rows["ts"].iloc[-1]) < end):
            rows.loc[len(rows)] = {"ts": end, "equity": final, "cash": float("nan"), "exposure": float("nan")}
        rows.index = pd.DatetimeIndex(pd.to_datetime(rows.pop("ts"), unit="ms", utc=True), name="time")
        peak = rows["equity"].cummax().clip(lower=self._metrics.initial_equity)
        rows["drawdown"] = rows["equity"] / peak - 1
        return rows

    @cached_property
    def orders(self) -> pd.DataFrame:
        """One row for each order: time (UTC), symbol, side, type, qty, price, filled, fill_price (average),
        stop, take_profit, reduce_only, reason, id.
        """
        import pandas as pd

        orders, fills = self._read("orders"), self._read("fills")
        fills["value"] = fills["qty"] * fills["price"]
        sums = fills.groupby("order_id")[["qty", "value"]].sum()
        orders["filled"] = orders["id"].map(sums["qty"]).fillna(0.0)
        orders["fill_price"] = orders["id"].map(sums["value"] / sums["qty"])
        orders["time"] = pd.to_datetime(orders["ts"], unit="ms", utc=True)
        columns = ["time", "symbol", "side", "type", "qty", "price", "filled", "fill_price", "stop"]
        return orders[[*columns, "take_profit", "reduce_only", "reason", "id"]]

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report, by default into var/reports, and its JSON twin; return its path."""
        from agent.analysis.report.html import write_report

        return write_report(self.data, Path(path or Path("var/reports") / f"{self.run.id}.html"))[0]

    def plot(self, symbol: str | None = None) -> ChartPage:
        """Return the report's chart: equity and drawdown, or the candles of `symbol` with the round trips.

        A notebook shows it; elsewhere `plot().save("chart.html")` writes it.
        """
        from agent.analysis.report.chart_page import chart_page

        return chart_page(self.data, symbol.upper() if symbol is not None else None)

    def _read(self, table: str) -> pd.DataFrame:
        with closing(open_database(self._store, create=False)) as database:
            return read_frame(database, self.run.id, table)

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return (name, strategy, buy and hold) of the table that represents the result."""
        own, hold = self._metrics.performance, self._metrics.buy_and_hold
        trades = self._metrics.trades

        def both(name: str, show: Callable[[float | None], str], key: str) -> tuple[str, str, str]:
            return name, show(getattr(own, key)), show(getattr(hold, key)) if hold else ""

        return [
            both("total return", _percent, "total_return"),
            both("Sharpe ratio", _number, "sharpe"),
            both("max drawdown", _percent, "max_drawdown"),
            ("round trips", f"{trades.trades:,}", ""),
            ("win rate", _percent(trades.win_rate).lstrip("+"), ""),
            ("fees", _number(self._metrics.fees), ""),
            ("final equity", _number(self._metrics.final_equity), ""),
        ]

    def _title(self) -> str:
        import pandas as pd

        first, last = (
            f"{pd.Timestamp(ts, unit='ms'):%Y-%m-%d %H:%M}" for ts in (self._metrics.start, self._metrics.end)
        )
        return f"{self.run.strategy}, {first} to {last}"

    def __repr__(self) -> str:
        lines = [self._title(), f"{'':<14}{'strategy':>12}  {'buy and hold':>12}"]
        lines += [f"{name:<14}{own:>12}  {hold:>12}".rstrip() for name, own, hold in self._rows()]
        lines += list(self.run.stamps)
        return "\n".join([*lines, f"run {self.run.id}"])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(own)}</td>"
            f"<td>{escape(hold)}</td></tr>"
            for name, own, hold in self._rows()
        )
        stamps = "".join(f"<p><b>{escape(stamp)}</b></p>" for stamp in self.run.stamps)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<table><caption>{escape(self._title())}</caption><thead><tr><th></th><th>strategy</th>"
            f"<th>buy and hold</th></tr></thead><tbody>{cells}</tbody></table>{stamps}"
            f"<ul>{notes}</ul><p>run {escape(self.run.id)}</p>"
        )


def trades_frame(trades: list[RoundTrip], metrics: Metrics) -> pd.DataFrame:
    """Return the frame of `BacktestResult.trades`; `metrics` value what is open at the last close."""
    import pandas as pd

    profits = [trade.pnl for trade in trades]
    funding = [trade.funding for trade in trades]
    for symbol, figures in metrics.symbols.items():
        own = [number for number, trade in enumerate(trades) if trade.symbol == symbol]
        rest = Decimal(repr(figures.pnl)) - sum((profits[number] for number in own), Decimal(0))
        if not own or not rest:
            continue
        # of the open trade: its value at the last close; else funding booked after the last exit
        last = next((number for number in own if trades[number].exit_ts is None), own[-1])
        profits[last] += rest
        if trades[last].exit_ts is not None and abs(rest) >= _CENT:
            funding[last] += rest
    rows = [
        {
            "symbol": trade.symbol,
            "side": "long" if trade.side is Side.BUY else "short",
            "qty": float(trade.qty),
            "entry_time": trade.entry_ts,
            "exit_time": trade.exit_ts,
            "entry_price": float(trade.entry_price),
            "exit_price": None if trade.exit_price is None else float(trade.exit_price),
            "profit": float(profit),
            "profit_pct": float(100 * profit / (trade.entry_price * trade.qty)),
            "fees": float(trade.fees),
            "funding": float(paid),
            "slippage": float(trade.slippage),
            "duration": trade.holding_time,
            "entry_reason": trade.reason,
            "exit_reason": trade.exit_reason if trade.exit_ts is not None else "",
            "open": trade.exit_ts is None,
        }
        for trade, profit, paid in zip(trades, profits, funding, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=_TRADE_COLUMNS)
    for column in ("entry_time", "exit_time"):
        frame[column] = pd.to_datetime(frame[column].astype("Int64"), unit="ms", utc=True)
    frame["duration"] = pd.to_timedelta(frame["duration"].astype("Int64"), unit="ms")
    frame["exit_price"] = frame["exit_price"].astype(float)
    return frame


_TRADE_COLUMNS: Final = [
    "symbol",
    "side",
    "qty",
    "entry_time",
    "exit_time",
    "entry_price",
    "exit_price",
    "profit",
    "profit_pct",
    "fees",
    "funding",
    "slippage",
    "duration",
    "entry_reason",
    "exit_reason",
    "open",
]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"
