"""Judges the reader of headlines: price moves around headlines, and trading walk-forward.

    python -m bench.judge --klines BTCUSDT=BTCUSDT-1m.parquet --klines ETHUSDT=ETHUSDT-1m.parquet \
        --news crypto-headlines.parquet --folder var/judge [--only study] [--only sentiment]

`study` is the event study of `bench/event_study.py`, whose docstring states the rule by which kinds of news
vote by default. The other parts are `tapewire walkforward` of the sentiment strategy and of the fusion model,
which is trained anew before each fold, with market orders and with post-only limit entries, and with the
holding time chosen in the training window. Headlines are scored once, into the database in --folder. A part
that --folder has from an earlier call of the same command and model is reused; each call writes
bench/results/judge.json and .md of all parts that are done, and prints the JSON. Peak memory is that of the
largest process so far. On a busy machine CPU seconds are more reliable than wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.core.news_kinds import NEWS_KINDS
from agent.system.atomic import write_bytes
from bench import event_study
from bench.judge_tables import markdown
from models.cards import read_card
from models.sentiment import model_dir

ROOT: Final = Path(__file__).parents[1]
STUDY: Final = "study"
CUT: Final = "2024-09-01"
"""Start of the event study's second half."""

JOBS: Final = "--jobs"
OFFSET: Final = "limit_offset=0.0002"
_HOLD: Final = ("--set", "exit_on_fade=false", "--set", "allow_short=true")
_HOLD_RANGE: Final = ("--fit", "refit", "--range", "hold=5m,15m,1h,4h,1d", "--train", "90d")


class Part(NamedTuple):
    """A walk-forward. `options` go to `tapewire walkforward`; `learns` is "", "refit" or "fusion"."""

    title: str
    options: tuple[str, ...] = ()
    learns: str = ""
    kinds: bool = False  # only kinds of news that don't fail the rule in the study's first half vote


PARTS: Final = {
    "sentiment": Part("sentiment"),
    "sentiment_maker": Part("sentiment, maker entries", ("--set", OFFSET)),
    "sentiment_hold": Part("sentiment, holding time fitted", _HOLD, "refit"),
    "sentiment_hold_maker": Part(
        "sentiment, holding time fitted, maker entries", (*_HOLD, "--set", OFFSET), "refit"
    ),
    "sentiment_kinds": Part("sentiment, kinds by the rule", kinds=True),
    "sentiment_kinds_hold": Part("sentiment, kinds by the rule, holding time fitted", _HOLD, "refit", True),
    "fusion": Part("fusion", ("--ablation", "full"), "fusion"),
    "fusion_maker": Part("fusion, maker entries", ("--ablation", "full", "--set", OFFSET), "fusion"),
    "fusion_price": Part("fusion, prices only", ("--ablation", "price"), "fusion"),
    "fusion_text": Part("fusion, text only", ("--ablation", "text"), "fusion"),
    "fusion_probabilities": Part("fusion, probabilities only", ("--ablation", "probabilities"), "fusion"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", action="append", required=True, metavar="SYMBOL=FILE")
    parser.add_argument("--news", required=True, type=Path)
    parser.add_argument("--model", default="starter", help="exported sentiment model")
    parser.add_argument("--start", default="2023-11-01", help="start of the study and of training")
    parser.add_argument("--judge", default="2024-10-01", help="start of the walk-forward's evaluation")
    parser.add_argument("--end", default="2025-06-01")
    parser.add_argument(
        "--only", action="append", choices=(STUDY, *PARTS), help="only this part; may be repeated"
    )
    parser.add_argument("--placebo", type=int, default=20)
    parser.add_argument(JOBS, type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("var/judge"))
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--allow-leakage", action="store_true", help="judge a model that knows the window")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    wanted = args.only or (STUDY, *PARTS)
    files = dict(text.split("=", 1) for text in args.klines)
    if STUDY in wanted:
        run_study(args, files)
    for name in (name for name in PARTS if name in wanted):
        run_walk_forward(name, args, files)
    summary = collect(args, files)
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output / "judge.json", json.dumps(summary, indent=1).encode() + b"\n")
    write_bytes(args.output / "judge.md", markdown(summary).encode())
    print(json.dumps(summary))


# -- parts that are kept -------------------------------------------------------------------------------


def kept(path: Path, key: Sequence[str]) -> dict[str, Any] | None:
    """Return the result of an earlier call from `path`, if it was computed for the same `key`."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found if found["key"] == list(key) else None


def keep(path: Path, key: Sequence[str], found: dict[str, Any]) -> dict[str, Any]:
    """Write a result to `path`, as a whole, and return it."""
    write_bytes(path, json.dumps({"key": list(key), **found}).encode())
    return found


def run_study(args: argparse.Namespace, files: dict[str, str]) -> dict[str, Any]:
    """Return the event study, from the folder if it is there."""
    key = study_key(args)
    path = args.folder / f"{STUDY}.json"
    known = kept(path, key)
    if known is not None:
        return known
    card = read_card(model_dir(args.model))
    if card.trained_until > event_study.to_ms(args.start) and not args.allow_leakage:
        raise SystemExit(f"the model was trained until {card.trained_until_iso}: --start later")

    def progress(done: int, total: int) -> None:
        print(f"\rscored {done:,} of {total:,} headlines", end="", file=sys.stderr, flush=True)

    began = time.monotonic()
    found = event_study.run(
        {symbol: Path(file) for symbol, file in files.items()},
        args.news,
        model_dir(args.model),
        args.folder,
        window=(args.start, CUT, args.end),
        progress=progress,
    )
    return keep(path, key, {**found, "wall_seconds": round(time.monotonic() - began, 1)})


def study_key(args: argparse.Namespace) -> list[str]:
    """Return what the study depends on."""
    return [*args.klines, str(args.news), fingerprint(args), args.start, CUT, args.end]


def fingerprint(args: argparse.Namespace) -> str:
    """Return the model's fingerprint."""
    return read_card(model_dir(args.model)).fingerprint


def voting_kinds(part: Part, study: dict[str, Any] | None) -> list[str]:
    """Return the kinds of news that vote in a part; [] if the study bars none or all, or is missing."""
    if not part.kinds:
        return list(NEWS_KINDS)
    judged = study["kinds"] if study else {}
    kinds = [kind for kind in NEWS_KINDS if judged and not judged[kind]["fails_first"]]
    return kinds if len(kinds) < len(NEWS_KINDS) else []


def run_walk_forward(name: str, args: argparse.Namespace, files: dict[str, str]) -> dict[str, Any] | None:
    """Return a walk-forward, from the folder if it is there; None if the rule bars no kind of news or all."""
    part = PARTS[name]
    kinds = voting_kinds(part, run_study(args, files) if part.kinds else None)
    if not kinds:
        print(f"{name} is not computed: the rule bars no kind of news, or all", file=sys.stderr)
        return None
    write_bytes(config_path(name, args), settings(args.folder, kinds).encode())
    command = walk_forward_command(name, args)
    return run_command(args.folder / f"{name}.json", command, [fingerprint(args), *kinds], args.folder)


def config_path(name: str, args: argparse.Namespace) -> Path:
    """Return the path of a part's configuration."""
    path: Path = args.folder / f"{name}.toml"
    return path


def settings(folder: Path, kinds: Sequence[str]) -> str:
    """Return a configuration whose scores are those of the study, in which only `kinds` vote."""
    lines = ["[store]", f'url = "sqlite:///{folder / "judge.db"}"']
    lines += ["[signals]", f"kinds = {json.dumps(list(kinds))}"]
    return "\n".join(lines) + "\n"


def walk_forward_command(name: str, args: argparse.Namespace) -> list[str]:
    """Return the command line of a walk-forward whose folds are judged from `args.judge` on."""
    part, config = PARTS[name], config_path(name, args)
    judge = date.fromisoformat(args.judge)
    window = {
        "": ["--strategy", "sentiment", "--start", args.judge, "--train", "0d"],
        "refit": ["--strategy", "sentiment", "--start", shifted(judge, -91), *_HOLD_RANGE],
        "fusion": [
            *("--fit", "fusion", "--start", args.start, "--anchored"),
            *("--train", f"{(judge - date.fromisoformat(args.start)).days - 1}d"),
        ],
    }[part.learns]
    return [
        *(sys.executable, "-m", "agent.cli.main", "walkforward", "--json", "--config", str(config)),
        *(word for text in args.klines for word in ("--klines", absolute(text))),
        *("--news", str(args.news.resolve()), "--model", model_path(args.model)),
        *("--end", args.end, "--test", "30d", "--embargo", "1d"),
        *("--placebo", str(args.placebo), JOBS, str(args.jobs)),
        *window,
        *part.options,
        *(["--allow-leakage"] if args.allow_leakage else []),
    ]


def shifted(day: date, days: int) -> str:
    """Return the ISO date so many days later."""
    return date.fromordinal(day.toordinal() + days).isoformat()


def absolute(text: str) -> str:
    """Return SYMBOL=FILE with the absolute path of the file."""
    symbol, _, file = text.partition("=")
    return f"{symbol}={Path(file).resolve()}"


def model_path(name: str) -> str:
    """Return "starter" or the absolute path of a model folder."""
    return name if name == "starter" else str(model_dir(name).resolve())


def command_key(command: Sequence[str], salt: Sequence[str]) -> list[str]:
    """Return what the result of a command depends on: all but the interpreter and the number of processes."""
    words = list(command[1:])
    if JOBS in words:
        del words[words.index(JOBS) : words.index(JOBS) + 2]
    return [*words, *salt]


def run_command(path: Path, command: Sequence[str], salt: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the JSON that a command prints, with its cost, from `path` if it was run before.

    The command runs in `folder`, so that its records, and the number of tries that they stand for, are those
    of this judgement alone.
    """
    key = command_key(command, salt)
    known = kept(path, key)
    if known is not None:
        return known
    began, used = time.monotonic(), child_cpu_seconds()
    path_of_modules = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path_of_modules},
    )
    return keep(
        path,
        key,
        {
            "result": json.loads(done.stdout),
            "wall_seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(child_cpu_seconds() - used, 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        },
    )


def child_cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- the summary ---------------------------------------------------------------------------------------


def collect(args: argparse.Namespace, files: dict[str, str]) -> dict[str, Any]:
    """Return the parts in the folder that these arguments would compute again; `missing` names the others."""
    parts, missing = {}, []
    study = kept(args.folder / f"{STUDY}.json", study_key(args))
    for name, part in PARTS.items():
        salt = [fingerprint(args), *voting_kinds(part, study)]
        key = command_key(walk_forward_command(name, args), salt)
        found = kept(args.folder / f"{name}.json", key)
        if found is None:
            missing.append(name)
            continue
        parts[name] = {
            "title": part.title,
            **summarise(found["result"]),
            **{key: found[key] for key in ("wall_seconds", "cpu_seconds", "peak_mb")},
        }
    if study is None:
        missing.insert(0, STUDY)
    else:
        study.pop("key")
    return {
        "model": fingerprint(args)[:12],
        "trained_from": args.start,
        "judged": [args.judge, args.end],
        "klines": [Path(file).name for file in files.values()],
        "news": args.news.name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "missing": missing,
        STUDY: study,
        "walk_forward": parts,
    }


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Return a walk-forward without paths and daily returns; `fitted` is true if `hold` was chosen."""
    folds = [
        {
            **{key: fold[key] for key in ("number", "test", "total_return", "buy_and_hold", "trades")},
            "hold": fold["overrides"].get("strategy", {}).get("params", {}).get("hold"),
            "fitted": result["fit"] == "refit",
        }
        for fold in result["folds"]
    ]
    return {
        "evidence": result["evidence"],
        "verdict": result["verdict"],
        "folds": folds,
        "inputs": {Path(path).name: digest for path, digest in result["inputs"].items()},
        "version": result["version"],
    }


if __name__ == "__main__":
    main()
