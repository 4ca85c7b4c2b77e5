"""Which module has which command, and its summary, so that help and each command import only what they need.

`tests/cli/test_command_index.py` compares the table with the commands themselves.
"""

from __future__ import annotations

from typing import Final

PANELS: Final[dict[str, dict[str, dict[str, str]]]] = {
    "Live": {
        "demo": {
            "demo": (
                "Watch the agent trade a day of market in two minutes, on this machine only; then "
                "report and verify."
            ),
        },
        "run": {
            "run": (
                "Run the agent: trade live on paper or on a testnet until it is stopped (Ctrl-C, SIGTERM)."
            ),
        },
        "top": {
            "top": (
                "Watch a running agent: account, positions, headlines, orders, health and alarms. `q` "
                "ends the view."
            ),
        },
        "control": {
            "status": "Show the running agent's state. If none runs, show the last run and exit with 1.",
            "pause": "Open no new positions. Open ones are managed as before.",
            "resume": "Trade again after a pause, a halt or a kill. After a kill a confirmation is required.",
            "halt": "Cancel all entry orders and open nothing until `resume`. Stops and take-profits stay.",
            "kill": (
                "Cancel all orders, stops too, and halt until an operator resumes. A restart doesn't undo it."
            ),
            "flatten": "Close all positions. The strategy may open new ones: `pause` first to stay flat.",
            "model": "Change the model of the running agent.",
        },
        "sleeve": {
            "sleeve": "List and change the strategies that share the running agent's account.",
        },
        "dashboard": {
            "dashboard": (
                "Show recorded runs in the browser: charts, decisions and reports, at any time of the "
                "run. Read-only."
            ),
        },
        "token": {
            "token": "Tokens of programs that use the REST API.",
        },
        "mcp": {
            "mcp": "Serve assistants by the Model Context Protocol: runs, research, documentation.",
        },
    },
    "Research": {
        "strategy": {
            "init": "Make a project folder: configuration, strategy, notebook, README and .gitignore.",
            "strategy": "List, describe, begin and change strategies.",
        },
        "backtest": {
            "backtest": "Replay history through a strategy: paper trades with costs, measured and recorded.",
            "verify": (
                "Replay a recorded run and compare every decision with the record. Exit code 1 if one "
                "differs."
            ),
        },
        "sweep": {
            "sweep": "Replay history once for all combinations of the ranges, and list their results.",
        },
        "walkforward": {
            "walkforward": (
                "Judge a strategy fold by fold, always on time after the data that it was fitted on."
            ),
        },
        "tune": {
            "tune": (
                "Search a strategy's parameters, and judge the best on time that the search has not seen."
            ),
        },
        "check": {
            "check": (
                "Test whether a backtest's result is honest: lookahead, warm-up, news timing, "
                "memorised names, costs."
            ),
        },
        "costs": {
            "costs": "Measure the costs of fills.",
        },
    },
    "Recorded runs": {
        "runs": {
            "runs": "List, tag, annotate and delete recorded runs. Without a command, list them.",
        },
        "report": {
            "report": (
                "Write the report of a run: one self-contained HTML page, and its data as JSON beside it."
            ),
            "slippage": (
                "Compare the venue's fills of a testnet run with those of the paper exchange, order by order."
            ),
        },
        "events": {
            "events": (
                "List the events of a recorded run: bars, headlines, scores, revisions, commands and reports."
            ),
        },
        "twin": {
            "twin": "Explain why a run on a testnet earned more or less than on paper.",
        },
        "diff": {
            "diff": "Compare two runs: settings, inputs, decisions, metrics, returns, round trips and costs.",
        },
        "explain": {
            "explain": (
                "Explain an order: event, headlines, votes, features, prediction, target, size, risk "
                "checks and fills."
            ),
        },
        "what_if": {
            "whatif": "Fold a recorded run on under a change, beside the run as it was; nothing is recorded.",
            "stories": (
                "Show which stories earned or lost: the run's equity minus that of a life without the story."
            ),
        },
        "bundle": {
            "bundle": "Write one file with a run: journal, scores, decisions, strategy, inputs, report.",
        },
        "tries": {
            "tries": (
                "List how often strategies were tried on which data; with RUN or --study, the tries on "
                "the same data."
            ),
        },
    },
    "Models": {
        "train": {
            "train": "Train a sentiment model, a reader, an ensemble or a fusion model.",
        },
        "model": {
            "evaluate": (
                "Measure a sentiment model on labelled text: accuracy, F1 and calibration, with 95 % "
                "intervals."
            ),
            "compare": (
                "Train several fine-tuning methods on the same split, and print their scores in one table."
            ),
            "score": "Score headlines: calibrated probabilities of bearish, neutral and bullish.",
            "export": "Export a model, recorded headlines, or their scores.",
        },
        "calibrate": {
            "calibrate": (
                "Query a language model for labelled texts, and fit the temperature that makes its "
                "shares probabilities."
            ),
        },
    },
    "Data": {
        "data": {
            "data": (
                "Describe data files: kind, symbol, interval, range, gaps. Exit code 1 if one can't be used."
            ),
            "download": "Download klines, or the trading rules of instruments.",
            "import": "Convert files from other sources.",
        },
        "news": {
            "record": "Record headlines without trading.",
        },
    },
    "Operations": {
        "setup": {
            "doctor": (
                "Check what the agent needs: store, model, exchange, clock and feeds. Exit code 1 if a "
                "check fails."
            ),
            "config": "Check or print the configuration.",
            "notify": "Test the notifications.",
        },
        "db": {
            "db": "Upgrade, back up, restore or archive the store.",
        },
        "worker": {
            "worker": "Run a worker for an agent on another machine.",
        },
        "sandbox": {
            "sandbox": (
                "Run a test exchange on this machine with Bybit v5's protocol, with prices from kline files."
            ),
        },
    },
}
"""Panel of the help -> module -> command or group -> first paragraph of its help.

Module X is `agent.cli.X_commands`, which has a `register(app)`.
"""

MODULES: Final[dict[str, str]] = {
    command: module
    for modules in PANELS.values()
    for module, commands in modules.items()
    for command in commands
}
"""Command or group -> the module that registers it."""
