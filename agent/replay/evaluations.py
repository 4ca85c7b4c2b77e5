"""Evaluations of strategies, identified and counted in the ledger of tries (`agent.store.tries`)."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from agent.analysis.deflation import StudyStanding, standing
from agent.analysis.significance import Moments
from agent.config import Config
from agent.data.columns import content_hash
from agent.data.klines import KlineFile
from agent.replay.fusion_model import open_predictor
from agent.replay.history import Plan
from agent.replay.open_engine import name_of, params_of
from agent.store.database import Database
from agent.store.runs import FUSION_VERSION, REVISING_MODEL, InputFile
from agent.store.tries import Study, Try, record_tries, tries_on
from strategies import source_hash, strategy_class

_MODELS: Final = ("model", REVISING_MODEL, FUSION_VERSION)
"""Keys of `Run.versions` with the fingerprints of models."""


class Evaluated(NamedTuple):
    """What a result depends on, apart from the market data and the window.

    `config` has the parameters, `versions` the fingerprints of models as in `Run.versions`; `way` is how it
    was evaluated, if not by a plain replay of the window.
    """

    config: Config
    inputs: Sequence[InputFile]
    versions: Mapping[str, str] = {}
    timezone: str | None = None
    way: Mapping[str, Any] = {}

    @property
    def variant(self) -> str:
        """The hash of the variant. Raises ConfigError if the strategy can't be loaded."""
        core = self.config.deterministic_subset()
        core.pop("fusion")  # its model's fingerprint counts, not the path
        core.pop("strategy")
        named = self.config.strategies()
        delays = self.config.history.model_dump(
            mode="json", include={"feed_delay", "inference_latency", "revision_latency"}
        )
        described = {
            "core": core,
            "code": {sleeve: _code(one.name) for sleeve, one in named.items()},
            "params": params_of(self.config),
            "delays": delays,
            "inputs": sorted((item.role, item.sha256) for item in self.inputs if item.role != "klines"),
            "models": {key: self.versions[key] for key in _MODELS if key in self.versions},
            "timezone": self.timezone,
            "way": self.way,
        }
        encoded = msgspec.json.encode(described, order="deterministic")
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()


def versions_of(config: Config) -> dict[str, str]:
    """Return the fingerprint of the configured fusion model, as in `Run.versions`; empty without one."""
    predictor = open_predictor(config) if config.fusion.path else None
    return {} if predictor is None else {FUSION_VERSION: predictor.fingerprint}


def input_files(plan: Plan) -> list[InputFile]:
    """Return the files of a plan with their hashes, without the numbers of their rows. Raises DataError."""
    klines = [
        InputFile("klines", str(path), content_hash(path), KlineFile(path, symbol).symbol)
        for path, symbol in plan.klines
    ]
    named: tuple[tuple[Literal["news", "sentiment", "funding"], Path | None], ...] = (
        ("news", plan.news),
        ("sentiment", plan.sentiment),
        ("funding", plan.funding),
    )
    return klines + [
        InputFile(role, str(path), content_hash(path)) for role, path in named if path is not None
    ]


def _code(name: str) -> str:
    """Return a strategy's class and the hash of its source.

    A notebook's class without a file has no source to compare, so each of its evaluations is another variant.
    """
    kind = strategy_class(name)
    if getattr(sys.modules[kind.__module__], "__file__", None) is None:
        return secrets.token_hex(8)
    return f"{kind.__qualname__} {source_hash(name)}"


class Result(NamedTuple):
    """What came out of an evaluation; `moments` are of returns per `period` (ms).

    `total_return` is None if nothing came out yet.
    """

    evaluated: Evaluated
    period: int
    moments: Moments
    total_return: float | None
    run: str = ""


def record_results(
    database: Database,
    study: Study,
    results: Sequence[Result],
    *,
    by: str,
    kind: str,
    held_out: bool = False,
    instead_of: str | None = None,
) -> list[str]:
    """Record evaluations on `study` in the ledger (see `record_tries`); return their ids."""
    return record_tries(
        database,
        study,
        [
            Try(
                study=study.id,
                variant=result.evaluated.variant,
                by=by,
                kind=kind,
                strategy=name_of(result.evaluated.config),
                params=params_of(result.evaluated.config),
                period=result.period,
                periods=result.moments.n,
                sharpe=result.moments.sharpe,
                skewness=result.moments.skewness,
                kurtosis=result.moments.kurtosis,
                total_return=result.total_return,
                run=result.run,
                held_out=held_out,
            )
            for result in results
        ],
        instead_of=instead_of,
    )


def count_try(database: Database, study: Study, result: Result, *, by: str, kind: str) -> StudyStanding:
    """Record one evaluation, and return what it is worth after all tries on the same data."""
    record_results(database, study, [result], by=by, kind=kind)
    return standing(result.moments, result.period, study.id, tries_on(database, study))
