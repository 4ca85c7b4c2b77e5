"""Measures `tapewire stories`: a month of minutes and real headlines, folded without each story that voted.

    python -m bench.stories [--data ../shared/data] [--start 2024-11-01] [--end 2024-12-01]

Makes a backtest of BTC and ETH in a temporary store, and folds it again without each story. Prints JSON: the
numbers of bars, headlines and stories, seconds, and the ratio of the seconds to those of as many whole
replays, one for each story, of which one is measured in the same call.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.cli.command_options import parse_time
from agent.config import parse
from agent.core.events import Kline, News
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.recorded_inputs import load_inputs
from agent.replay.what_if import Change, fold_on
from agent.research.story_results import story_results
from agent.store.database import open_database
from models.sentiment.open_scorer import open_scorer


def main() -> None:
    """Run it and print the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--start", default="2024-11-01")
    parser.add_argument("--end", default="2024-12-01")
    given = parser.parse_args()
    symbols = ("BTCUSDT", "ETHUSDT")
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        config = parse({"strategy": {"name": "sentiment"}, "store": {"url": url}}, where="bench")
        plan = Plan(
            tuple((given.data / "klines" / f"{symbol}-1m.parquet", symbol) for symbol in symbols),
            given.data / "news" / "crypto-headlines.parquet",
            start=parse_time(given.start, "--start"),
            end=parse_time(given.end, "--end"),
        )
        with closing(open_database(url)) as database:
            scorer = open_scorer(config.model.path, config)
            done = backtest(History(plan, config), database, scorer=scorer)
            source = load_inputs(database, done.run)
        began = time.perf_counter()
        both = fold_on(source, Change())
        replay = (time.perf_counter() - began) / 2
        began = time.perf_counter()
        found = story_results(source)
        seconds = time.perf_counter() - began
    folded = len(found.stories)
    print(
        json.dumps(
            {
                "bars": sum(isinstance(event, Kline) for event in source.events),
                "headlines": sum(isinstance(event, News) for event in source.events),
                "stories_folded": folded,
                "stories_without_a_vote": found.silent,
                "stories_that_changed_the_result": sum(one.contribution != 0 for one in found.stories),
                "stories_whose_lives_never_coincide": sum(one.until is None for one in found.stories),
                "identical_without_a_change": both.difference is None and both.as_recorded,
                "seconds": round(seconds, 2),
                "seconds_of_one_replay": round(replay, 3),
                "ratio_to_a_replay_a_story": round(seconds / max(folded * replay, 1e-9), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
