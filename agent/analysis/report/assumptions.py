"""The assumptions behind the fills of a run, from its own configuration."""

from __future__ import annotations

from agent.analysis.report import formats
from agent.config import Config
from agent.config.costs import costs_in_words
from agent.core.durations import format_duration
from agent.core.instruments import instrument_for


def assumptions(config: Config) -> list[str]:
    """Return one sentence per assumption; docs/assumptions.md has the full rules."""
    paper, history, account = config.paper, config.history, config.account
    margined = config.market.category == "linear"
    return [
        f"The costs are {costs_in_words(config.paper, config.costs)}.",
        "Orders fill at the close of the bar that gave the signal."
        if paper.fill == "close"
        else f"Orders reach the exchange {format_duration(paper.latency)} after the decision "
        "and fill only at later prices.",
        _fees(config),
        f"Takers pay a half-spread of {formats.number(paper.half_spread_bps)} basis points per fill.",
        {
            "none": "No slippage beyond the spread.",
            "fixed": f"Slippage is {formats.number(paper.slippage_bps)} basis points.",
            "square_root": f"Slippage is {formats.number(paper.impact)} × the bar's range "
            "× √(order's share of the bar's volume).",
        }[paper.slippage],
        "Any quantity fills at once."
        if paper.liquidity == "infinite"
        else f"Orders fill at most {formats.percent(paper.max_participation, 0)} of a bar's volume; "
        "the rest waits.",
        "Limit orders fill when the price "
        + ("touches them." if paper.limit_fill == "touch" else "trades through them; a touch is not enough."),
        "Within a bar, the worse path for the position is assumed: the stop fills before the take-profit.",
        *(
            [
                f"Without a history of rates, funding is {formats.percent(float(paper.funding_rate), 4)} "
                f"every {format_duration(paper.funding_interval)}.",
                f"Leverage is at most {account.leverage}; a margin call liquidates at a fee of "
                f"{formats.percent(float(paper.liquidation_fee), 3)}.",
            ]
            if margined
            else ["No short sales, no leverage, no funding."]
        ),
        f"A headline is known {format_duration(history.feed_delay)} after publication, its sentiment score "
        f"{format_duration(history.inference_latency)} later.",
        "Orders don't move later prices, and the exchange never fails.",
        "Buy-and-hold has equal weights and no costs or funding.",
    ]


def _fees(config: Config) -> str:
    if config.paper.fees == "none":
        return "No fees."
    if config.paper.fees == "per_share":
        return f"Fees are {config.paper.per_share_fee} {config.account.currency} a share."
    rates = {
        (instrument.maker_fee, instrument.taker_fee)
        for instrument in (instrument_for(symbol, config) for symbol in config.market.symbols)
    }
    texts = sorted(
        f"{formats.percent(float(maker), 3)} for makers and {formats.percent(float(taker), 3)} for takers"
        for maker, taker in rates
    )
    return f"Fees are {'; or '.join(texts)}."
