"""Parameter search with Optuna, in sample only.

The best parameters are then tested on held-out time that no trial has seen.

A trial replays the in-sample folds one by one and reports after each, so that hopeless trials are pruned. The
study is stored in a database: any number of processes on any number of machines can work on it, and it can be
resumed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agent import __version__
from agent.analysis.overfitting import Overfitting, overfitting
from agent.analysis.significance import deflated_sharpe, sharpe
from agent.core.errors import ConfigError, StoreError, UsageError
from agent.core.events import DAY_MS
from agent.data.columns import content_hash
from agent.research.assessment import PERIODS_PER_YEAR
from agent.research.fitters import NoFitter
from agent.research.folds import Fold, Window, make_folds
from agent.research.parallel import Advance, run_parallel
from agent.research.parameter_space import ParameterRange
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import LoadedWindow, with_params
from agent.research.walk_forward import FOLDER, Settings, WalkForward, walk_forward
from models.cards import read_card
from models.sentiment.open_scorer import fingerprint_of
from strategies import load_strategy, source_hash
from strategies.description import Value

if TYPE_CHECKING:
    import optuna

STORAGE: Final = "sqlite:///var/tune.db"
_HEARTBEAT: Final = 60  # seconds; a trial counts as failed after two without a heartbeat
_NO_SHARPE: Final = -10.0  # value of a trial without a Sharpe ratio, which must not win


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


class TuningResult(msgspec.Struct, frozen=True):
    """Result of a search.

    - `value`: the best annual in-sample Sharpe ratio of all `trials`; `pruned` of these ended early.
    - `reused`: trials of an earlier search.
    - `deflated_sharpe`: probability that the best's true ratio is above what luck gives the best of so many
      trials.
    - `overfitting`: how the complete trials rank on the time by which they were not chosen; None for fewer
      than two.
    - `held_out`: walk-forward with the best parameters over the time that no trial has seen.
    """

    study: str
    storage: str
    trials: int
    pruned: int
    invalid: int
    params: dict[str, Value]
    value: float
    in_sample: tuple[int, int]
    deflated_sharpe: float | None
    overfitting: Overfitting | None
    held_out: WalkForward
    reused: int = 0


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


def split(start: int, end: int, *, holdout: int, embargo: int, folds: int) -> tuple[list[Fold], Fold]:
    """Split into in-sample folds over [start, end - holdout - embargo) and the held-out fold.

    All times in ms.

    Raises UsageError if no time is left in sample.
    """
    inside = end - holdout - embargo - start
    if holdout <= 0 or inside <= 0 or folds < 1:
        raise UsageError(
            f"nothing is left in sample: of {(end - start) / DAY_MS:.3g} days, {holdout / DAY_MS:.3g} are "
            f"held out, and {embargo / DAY_MS:.3g} before them left out",
            hint="shorten --holdout or --embargo, or give a longer history",
        )
    found = make_folds(start, start + inside, train=0, test=-(-inside // folds))
    return found, Fold(1, Window(end - holdout, end - holdout), Window(end - holdout, end))


def study_name(search: Search) -> str:
    """Return a study name that depends only on what the search computes."""
    described = json.dumps(search.described, sort_keys=True, default=str)
    digest = hashlib.blake2b(described.encode(), digest_size=4).hexdigest()
    return f"{search.inputs.config.strategy.name.replace(':', '.')}-{digest}"


def tune(search: Search, *, workers: int = 1, advance: Advance | None = None) -> None:
    """Run the trials that the study still lacks, over `workers` processes.

    Raises what replays raise, StoreError, UsageError.

    With one worker the same seed gives the same trials; a resumed study draws new ones.
    """
    missing = range(count_trials(search), search.trials)
    try:
        run_parallel(_run_trial, [(search, number) for number in missing], jobs=workers, advance=advance)
    finally:
        _LOADED.clear()


def count_trials(search: Search) -> int:
    """Return how many trials the study already has. Creates the study if it doesn't exist."""
    return len(_open_study(search, create=True).get_trials(deepcopy=False))


def evaluate_best(
    search: Search, held_out: Fold, settings: Settings, *, folder: Path = FOLDER, reused: int = 0
) -> TuningResult:
    """Test the study's best parameters on the held-out time. Raises UsageError if no trial is complete."""
    import optuna

    study = _open_study(search, create=False)
    trials = study.get_trials(deepcopy=False)
    valued = [trial for trial in trials if trial.user_attrs.get("sharpe") is not None]
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    refusals = [trial.user_attrs["invalid"] for trial in trials if "invalid" in trial.user_attrs]
    if not complete:
        reason = refusals[0] if refusals else "none were made"
        raise UsageError(
            f"study {search.study}: no trial ran to the end: {reason}",
            hint="raise --trials, or name other ranges",
        )
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    params: dict[str, Value] = best.user_attrs["params"]
    returns = [np.array(trial.user_attrs["returns"]) for trial in complete]
    ratios = [float(trial.user_attrs["sharpe"]) for trial in valued]
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    plan = search.inputs.plan._replace(warm_up=None)  # what these parameters need
    inputs = search.inputs._replace(plan=plan, config=with_params(search.inputs.config, params))
    tested = walk_forward(
        inputs,
        [held_out],
        NoFitter(),
        settings,
        folder=folder,
        described={"study": search.study, "params": params, "config": inputs.config.persisted()},
    )
    return TuningResult(
        study=search.study,
        storage=make_url(search.storage).render_as_string(hide_password=True),
        trials=len(valued),
        pruned=sum("invalid" not in trial.user_attrs for trial in pruned),
        invalid=len(refusals),
        params=params,
        value=float(best.value or 0.0),
        in_sample=(search.folds[0].test.start, search.folds[-1].test.end),
        deflated_sharpe=deflated_sharpe(best.user_attrs["returns"], len(valued), trial_sharpes=ratios),
        overfitting=overfitting(np.column_stack(returns)),
        held_out=tested,
        reused=min(reused, search.trials),
    )


def toml_snippet(result: TuningResult, strategy: str) -> str:
    """Return the best parameters as a part of a configuration file, with the results as comments."""
    lines = [
        f"# The best of {result.trials} trials of study {result.study}: Sharpe {result.value:.2f} in sample.",
        f"# Held out: {result.held_out.verdict.headline}",
        "[strategy]",
        f"name = {json.dumps(strategy)}",
        "",
        "[strategy.params]",
        *(f"{name} = {json.dumps(value)}" for name, value in result.params.items()),
    ]
    return "\n".join(lines) + "\n"


# -- a trial, in any process --------------------------------------------------------------------------------


class _LoadedSearch(NamedTuple):
    study: optuna.Study
    windows: list[LoadedWindow]


_LOADED: dict[str, _LoadedSearch] = {}
"""The study that this process works on, kept between trials."""


def _run_trial(task: tuple[Search, int]) -> None:
    search, number = task
    key = search.study + search.storage
    loaded = _LOADED.get(key)
    if loaded is None:
        _LOADED.clear()  # one study at a time, because its events may fill the memory
        end = search.folds[-1].test.end
        windows = [
            search.inputs.load_window(fold.test, warmup=search.warmup, close_out=True, judged_from=end)
            for fold in search.folds
        ]
        study = _open_study(search, create=False, seed=search.seed + number)
        loaded = _LOADED[key] = _LoadedSearch(study, windows)
    if len(loaded.study.get_trials(deepcopy=False)) < search.trials:
        try:
            loaded.study.optimize(lambda trial: _value(trial, search, loaded.windows), n_trials=1)
        except SQLAlchemyError as error:
            raise _storage_error(search.storage, error) from None


def _value(trial: optuna.Trial, search: Search, windows: Sequence[LoadedWindow]) -> float:
    """Return the annual Sharpe ratio over all folds; report the ratio so far after each."""
    import optuna

    params = {item.name: item.suggest(trial) for item in search.ranges}
    trial.set_user_attr("params", params)
    config = with_params(search.inputs.config, params)
    try:
        load_strategy(config.strategy.name, config.strategy.params)
    except ConfigError as error:
        trial.set_user_attr("invalid", str(error))
        raise optuna.TrialPruned(str(error)) from None
    returns = np.empty(0)
    value = _NO_SHARPE
    for number, window in enumerate(windows):
        returns = np.concatenate((returns, window.replay(config).returns))
        ratio = sharpe(returns)
        value = _NO_SHARPE if ratio is None else ratio * PERIODS_PER_YEAR**0.5
        trial.set_user_attr("sharpe", ratio or 0.0)
        trial.report(value, number)
        if number + 1 < len(windows) and trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("returns", returns.tolist())
    return value


def _open_study(search: Search, *, create: bool, seed: int | None = None) -> optuna.Study:
    """Open the study. Raises UsageError if it is of another search, StoreError if it can't be opened."""
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
                heartbeat_interval=_HEARTBEAT,
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
            raise _storage_error(search.storage, error) from None
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
    return study


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError("tune needs Optuna", hint="pip install 'tapewire[research]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _storage_error(storage: str, error: Exception) -> StoreError:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    url = make_url(storage).render_as_string(hide_password=True)
    return StoreError(f"the study's storage {url} can't be used: {reason}")
