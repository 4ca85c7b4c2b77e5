"""The study of a parameter search in Optuna's storage, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agent import __version__
from agent.core.errors import StoreError, UsageError
from agent.data.columns import content_hash
from agent.research.folds import Fold
from agent.research.parameter_space import ParameterRange
from agent.research.replay_inputs import ReplayInputs
from models.cards import read_card
from models.sentiment.open_scorer import fingerprint_of
from strategies import source_hash

if TYPE_CHECKING:
    import optuna

BATCH: Final = 8
"""Trials of a batch."""

STORAGE: Final = "sqlite:///var/tune.db"
HEARTBEAT: Final = 60  # seconds; a trial counts as failed after two without a heartbeat


class Search(NamedTuple):
    """A search: parameter ranges, in-sample folds and settings. It can be sent to other processes."""

    inputs: ReplayInputs
    ranges: list[ParameterRange]
    folds: list[Fold]
    study: str
    storage: str
    trials: int  # of the study, over all processes
    warmup: int = 0
    prune: bool = True
    seed: int = 0
    batch: int = BATCH  # trials that are drawn and replayed together

    @property
    def described(self) -> dict[str, Any]:
        """Everything that a trial's result depends on. Two searches may share a study if this is equal.

        Files are identified by their content, models by their fingerprints, the strategy by its source.
        """
        plan, config = self.inputs.plan, self.inputs.config
        return {
            "version": __version__,
            "config": config.persisted(),
            "strategy": source_hash(config.strategy.name),
            "folds": [list(fold.test) for fold in self.folds],
            "warmup": self.warmup,
            "ranges": msgspec.to_builtins(self.ranges),
            "klines": [[symbol, _file_hash(path)] for path, symbol in plan.klines],
            "timezone": plan.timezone,
            "news": _file_hash(plan.news),
            "sentiment": _file_hash(plan.sentiment),
            "funding": _file_hash(plan.funding),
            "model": fingerprint_of(config.model.path, config) if plan.news is not None else None,
            "fusion": _fingerprint(Path(config.fusion.path).expanduser()) if config.fusion.path else None,
        }


class OpenStudy(NamedTuple):
    """A study and its storage."""

    study: optuna.Study
    storage: optuna.storages.RDBStorage


_FILE_HASHES: Final[dict[tuple[Path, int, int], str]] = {}


def _file_hash(path: Path | None) -> str | None:
    """Return the SHA-256 of a file, cached until its size or modification time changes."""
    if path is None:
        return None
    state = path.stat()
    key = path, state.st_size, state.st_mtime_ns
    if key not in _FILE_HASHES:
        _FILE_HASHES[key] = content_hash(path)
    return _FILE_HASHES[key]


def _fingerprint(folder: Path) -> str:
    return read_card(folder).fingerprint


def study_name(search: Search) -> str:
    """Return a study name that depends only on what the search computes."""
    described = json.dumps(search.described, sort_keys=True, default=str)
    digest = hashlib.blake2b(described.encode(), digest_size=4).hexdigest()
    return f"{search.inputs.config.strategy.name.replace(':', '.')}-{digest}"


def count_trials(search: Search) -> int:
    """Return how many trials the study already has. Creates the study if it doesn't exist."""
    return len(open_study(search, create=True).study.get_trials(deepcopy=False))


def open_study(search: Search, *, create: bool, seed: int | None = None, checked: bool = False) -> OpenStudy:
    """Open the study. Raises UsageError if it is of another search, StoreError if it can't be opened.

    With `checked` the caller knows that it is of this search, as in a worker, whose paths are others.
    """
    optuna = _import_optuna()
    try:
        url = make_url(search.storage)
    except ArgumentError:
        raise UsageError(
            f"--storage {search.storage!r} is not a database URL",
            hint="sqlite:///FILE or postgresql://HOST/NAME",
        ) from None
    arguments: dict[str, Any] = {}
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    elif url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        arguments = {"connect_args": {"timeout": 60}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks these classes as experimental
        sampler = optuna.samplers.TPESampler(seed=search.seed if seed is None else seed, constant_liar=True)
        pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=8) if search.prune else optuna.pruners.NopPruner()
        )
        try:
            storage = optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False),
                engine_kwargs=arguments,
                heartbeat_interval=HEARTBEAT,
            )
            study = optuna.create_study(
                storage=storage,
                study_name=search.study,
                direction="maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )
            if create and "search" not in study.user_attrs:
                study.set_user_attr("search", msgspec.to_builtins(search.described))
        except (SQLAlchemyError, ImportError) as error:
            raise storage_error(search.storage, error) from None
    if checked:
        return OpenStudy(study, storage)
    stored, own = (
        study.user_attrs.get("search"),
        json.loads(json.dumps(msgspec.to_builtins(search.described))),
    )
    if stored != own:
        stored = stored if isinstance(stored, dict) else {}
        differing = sorted(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name))
        raise UsageError(
            f"study {search.study} in the storage is of another search: {', '.join(differing)} differ",
            hint="name another --study, or repeat its files and options",
        )
    return OpenStudy(study, storage)


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError("tune needs Optuna", hint="pip install 'tapewire[research]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def storage_error(storage: str, error: Exception) -> StoreError:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    url = make_url(storage).render_as_string(hide_password=True)
    return StoreError(f"the study's storage {url} can't be used: {reason}")
