"""The one place that turns `model.path` into a scorer.

    starter, FOLDER      local model, written by `tapewire export`
    openai:URL#MODEL     language model at a server
    ensemble:FOLDER      several of these

A language model or an ensemble is imported when one is opened. None of them needs torch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.symbols import AssetFinder
from agent.data.sentiment import NamedScorer
from agent.store.database import Database
from agent.store.prompts import save_prompts
from models.cards import read_card
from models.sentiment import ENSEMBLE, SERVER, is_local, model_dir
from models.sentiment.scorer_facts import close_scorer, prompts_of
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer


def open_scorer(
    path: str, config: Config, *, finder: AssetFinder | None = None, threads: int | None = None
) -> NamedScorer:
    """Open the model that `path` names; a language model is not queried yet.

    `finder` finds the assets that a headline names, by default by the names of the configured symbols;
    `threads` is the number of texts that a local model scores at once, by default `model.threads`. Raises
    ModelError for a local model, and as `LlmScorer.open` for a language model.
    """
    finder = finder or AssetFinder(config.market.symbols, config.instruments)
    if path.startswith(SERVER):
        from models.sentiment.llm.llm_scorer import LlmScorer

        fallback = config.llm.fallback
        if fallback and not is_local(fallback):
            raise ConfigError(
                f"llm.fallback is {fallback}, which is no local model", hint="starter, a folder, or empty"
            )
        local = open_scorer(fallback, config, finder=finder, threads=threads) if fallback else None
        return LlmScorer.open(path, config.llm, fallback=local)
    if path.startswith(ENSEMBLE):
        from models.sentiment.ensemble import load_ensemble

        folder = Path(path.removeprefix(ENSEMBLE)).expanduser()
        return load_ensemble(folder, partial(_open_member, config=config, finder=finder, threads=threads))
    return open_local_scorer(path, config, finder=finder, threads=threads)


def open_local_scorer(
    path: str, config: Config, *, finder: AssetFinder | None = None, threads: int | None = None
) -> Scorer:
    """Open a local model, as `open_scorer`. Raises ConfigError for any other, which has no hidden states."""
    if not is_local(path):
        what = f"{path} has no hidden states to learn from, as a local model has"
        raise ConfigError(what, hint="name starter, or a folder written by `tapewire export`")
    finder = finder or AssetFinder(config.market.symbols, config.instruments)
    return Scorer.load(model_dir(path), threads=threads or config.model.threads or None, finder=finder)


def open_cached_scorer(
    path: str, config: Config, database: Database, *, finder: AssetFinder | None = None
) -> CachedScorer:
    """Open a model behind the store's cache of scores, and store the prompts of its language models.

    Raises as `open_scorer`, and StoreError.
    """
    scorer = open_scorer(path, config, finder=finder)
    save_prompts(database, prompts_of(scorer))
    return CachedScorer(scorer, SqlScoreCache(database))


def fingerprint_of(path: str, config: Config) -> str:
    """Return the fingerprint of the model that `path` names. Raises as `open_scorer`."""
    if is_local(path):
        return read_card(model_dir(path)).fingerprint
    scorer = open_scorer(path, config)
    try:
        return scorer.fingerprint
    finally:
        close_scorer(scorer)


def _open_member(path: str, config: Config, finder: AssetFinder, threads: int | None) -> NamedScorer:
    if path.startswith(ENSEMBLE):
        raise ConfigError(f"{path} is a member of an ensemble", hint="name its members instead")
    return open_scorer(path, config, finder=finder, threads=threads)
