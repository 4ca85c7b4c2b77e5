"""Parameter search with Optuna, in sample only: what it finds is then judged on time that no trial has seen.

Every trial is decided fold by fold over the in-sample time and reports after each fold, so that hopeless ones are pruned. The
study lives in a database, where any number of processes on any number of machines work on it, and where it is resumed.
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
from agent.data.columns import content_hash
from agent.research.evidence import PERIODS_PER_YEAR
from agent.research.fitters import Fixed
from agent.research.folds import Fold, Window, make_folds
from agent.research.material import Material
from agent.research.rehearsal import Stage, with_params
from agent.research.space import Range, Value
from agent.research.walkforward import FOLDER, Settings, WalkForward, walk_forward
from agent.research.workers import Advance, spread
from models.cards import read_card
from models.sentiment import model_dir
from strategies import load_strategy, source_hash

if TYPE_CHECKING:
    import optuna

STORAGE: Final = "sqlite:///var/tune.db"
_HEARTBEAT: Final = 60  # seconds; a trial whose process is silent for two of them has died
_NEVER_MOVED: Final = -10.0  # the value of a trial without a Sharpe ratio: it must not win


class Search(NamedTuple):
    """What is searched: the space, the in-sample folds, and how. Travels to other processes."""

    material: Material
    ranges: list[Range]
    folds: list[Fold]
    study: str
    storage: str
    trials: int  # of the study in all, from whatever process
    warmup: int = 0
    prune: bool = True
    seed: int = 0

    @property
    def described(self) -> dict[str, Any]:
        """What makes two searches the same, so that they may share a study: what their trials compute, and from what.

        Files count by their content, models by their fingerprints, the strategy by its source, and the whole configuration.
        """
        plan, config = self.material.plan, self.material.config
        return {
            "version": __version__, "config": config.recorded(), "strategy": source_hash(config.strategy.name),
            "folds": [list(fold.test) for fold in self.folds], "warmup": self.warmup, "ranges": msgspec.to_builtins(self.ranges),
            "klines": [[symbol, _hash_of(path)] for path, symbol in plan.klines], "timezone": plan.timezone,
            **{role: _hash_of(path) for role, path in (("news", plan.news), ("sentiment", plan.sentiment), ("funding", plan.funding))},
            "model": _fingerprint(model_dir(config.model.path)) if plan.news is not None else None,
            "fusion": _fingerprint(Path(config.fusion.path).expanduser()) if config.fusion.path else None,
        }  # fmt: skip


class Tuned(msgspec.Struct, frozen=True):
    """What a search found. `value` is the annual Sharpe ratio in sample of the best of `trials`; `pruned` of them were cut short.

    - `reused`: how many of the trials an earlier search had made.
    - `deflated_sharpe`: probability that the best's true ratio is above what luck gives the best of so many.
    - `overfitting`: how the trials that ran to the end rank where they were not chosen; None for fewer than two.
    - `held_out`: the walk-forward over the time that no trial has seen, with the best parameters.
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


def _hash_of(path: Path | None) -> str | None:
    """SHA-256 of a file, computed once as long as its size and time of change stay."""
    if path is None:
        return None
    state = path.stat()
    key = path, state.st_size, state.st_mtime_ns
    if key not in _HASHES:
        _HASHES[key] = content_hash(path)
    return _HASHES[key]


_HASHES: Final[dict[tuple[Path, int, int], str]] = {}


def _fingerprint(folder: Path) -> str:
    return read_card(folder).fingerprint


def split(start: int, end: int, *, holdout: int, embargo: int, folds: int) -> tuple[list[Fold], Fold]:
    """In-sample folds over [start, end - holdout - embargo), and the held-out time. Raises UsageError where there is no room."""
    inside = end - holdout - embargo - start
    if holdout <= 0 or inside <= 0 or folds < 1:
        raise UsageError("nothing is left in sample", hint="shorten --holdout, or name a longer window")
    found = make_folds(start, start + inside, train=0, test=-(-inside // folds))
    return found, Fold(1, Window(end - holdout, end - holdout), Window(end - holdout, end))


def study_name(search: Search) -> str:
    """A name that the same search finds again."""
    digest = hashlib.blake2b(
        json.dumps(search.described, sort_keys=True, default=str).encode(), digest_size=4
    ).hexdigest()
    return f"{search.material.config.strategy.name.replace(':', '.')}-{digest}"


def tune(search: Search, *, workers: int = 1, advance: Advance | None = None) -> None:
    """Run the trials that the study still lacks, over `workers` processes. Raises what replays raise, StoreError, UsageError.

    With one worker the same seed makes the same trials; a resumed study draws new ones.
    """
    study = _open(search, create=True)
    missing = range(len(study.get_trials(deepcopy=False)), search.trials)
    try:
        spread(_one, [(search, number) for number in missing], jobs=workers, advance=advance)
    finally:
        _BENCHES.clear()


def made_trials(search: Search) -> int:
    """How many trials the study has from earlier searches that were the same."""
    return len(_open(search, create=True).get_trials(deepcopy=False))


def conclude(
    search: Search, held_out: Fold, settings: Settings, *, folder: Path = FOLDER, reused: int = 0
) -> Tuned:
    """Judge the study's best on the held-out time. Raises UsageError if no trial ran to the end."""
    import optuna

    study = _open(search, create=False)
    trials = study.get_trials(deepcopy=False)
    tried = [trial for trial in trials if trial.user_attrs.get("sharpe") is not None]
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        reason = next(
            (trial.user_attrs["invalid"] for trial in trials if "invalid" in trial.user_attrs),
            "none were made",
        )
        raise UsageError(
            f"study {search.study}: no trial ran to the end: {reason}",
            hint="raise --trials, or name other ranges",
        )
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    params: dict[str, Value] = best.user_attrs["params"]
    returns = [np.array(trial.user_attrs["returns"]) for trial in complete]
    ratios = [float(trial.user_attrs["sharpe"]) for trial in tried]
    material = search.material._replace(config=with_params(search.material.config, params))
    judged = walk_forward(
        material,
        [held_out],
        Fixed(),
        settings,
        folder=folder,
        described={"study": search.study, "params": params, "config": material.config.recorded()},
    )
    return Tuned(
        study=search.study,
        storage=make_url(search.storage).render_as_string(hide_password=True),
        trials=len(tried),
        pruned=sum(
            trial.state == optuna.trial.TrialState.PRUNED and "invalid" not in trial.user_attrs
            for trial in trials
        ),
        invalid=sum("invalid" in trial.user_attrs for trial in trials),
        params=params,
        value=float(best.value or 0.0),
        in_sample=(search.folds[0].test.start, search.folds[-1].test.end),
        deflated_sharpe=deflated_sharpe(best.user_attrs["returns"], len(tried), trial_sharpes=ratios),
        overfitting=overfitting(np.column_stack(returns)),
        held_out=judged,
        reused=min(reused, search.trials),
    )


def snippet(tuned: Tuned, strategy: str) -> str:
    """The best parameters as a piece of a configuration file, with what is to be thought of them."""
    lines = [
        f"# The best of {tuned.trials} trials of study {tuned.study}: Sharpe {tuned.value:.2f} in sample.",
        f"# Held out: {tuned.held_out.verdict.headline}",
        "[strategy]",
        f"name = {json.dumps(strategy)}",
        "",
        "[strategy.params]",
        *(f"{name} = {json.dumps(value)}" for name, value in tuned.params.items()),
    ]
    return "\n".join(lines) + "\n"


# -- a trial, in whatever process --------------------------------------------------------------------------------------


class _Bench(NamedTuple):
    """What a process keeps between its trials."""

    study: optuna.Study
    stages: list[Stage]


_BENCHES: dict[str, _Bench] = {}


def _one(task: tuple[Search, int]) -> None:
    search, number = task
    bench = _BENCHES.get(search.study + search.storage)
    if bench is None:
        _BENCHES.clear()  # one study at a time: its events fill the memory
        stages = [
            search.material.stage(
                fold.test, warmup=search.warmup, close_out=True, judged_from=search.folds[-1].test.end
            )
            for fold in search.folds
        ]
        bench = _BENCHES[search.study + search.storage] = _Bench(
            _open(search, create=False, seed=search.seed + number), stages
        )
    if len(bench.study.get_trials(deepcopy=False)) < search.trials:
        try:
            bench.study.optimize(lambda trial: _value(trial, search, bench.stages), n_trials=1)
        except SQLAlchemyError as error:
            raise _unusable(search.storage, error) from None


def _value(trial: optuna.Trial, search: Search, stages: Sequence[Stage]) -> float:
    """The annual Sharpe ratio over all folds; reports the one so far after each."""
    import optuna

    params = {item.name: item.suggest(trial) for item in search.ranges}
    trial.set_user_attr("params", params)
    config = with_params(search.material.config, params)
    try:
        load_strategy(config.strategy.name, config.strategy.params)
    except ConfigError as error:
        trial.set_user_attr("invalid", str(error))
        raise optuna.TrialPruned(str(error)) from None
    returns = np.empty(0)
    value = _NEVER_MOVED
    for number, stage in enumerate(stages):
        returns = np.concatenate((returns, stage.rehearse(config).returns))
        ratio = sharpe(returns)
        value = _NEVER_MOVED if ratio is None else ratio * PERIODS_PER_YEAR**0.5
        trial.set_user_attr("sharpe", ratio or 0.0)
        trial.report(value, number)
        if number + 1 < len(stages) and trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("returns", returns.tolist())
    return value


def _open(search: Search, *, create: bool, seed: int | None = None) -> optuna.Study:
    """The study, from its storage. Raises UsageError where it is of another search, StoreError where it can't be reached."""
    optuna = _optuna()
    try:
        url = make_url(search.storage)
    except ArgumentError:
        raise UsageError(
            f"--storage {search.storage!r} is no database URL",
            hint="sqlite:///FILE or postgresql://HOST/NAME",
        ) from None
    arguments: dict[str, Any] = {}
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    elif url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        arguments = {"connect_args": {"timeout": 60}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls what we use experimental
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
            raise _unusable(search.storage, error) from None
    if study.user_attrs.get("search") != json.loads(json.dumps(msgspec.to_builtins(search.described))):
        raise UsageError(
            f"study {search.study} in the storage is of another search: {_differences(study.user_attrs.get('search'), search)} differ",
            hint="name another --study, or repeat its files and options",
        )
    return study


def _differences(stored: Any, search: Search) -> str:
    """The parts of two descriptions of a search that differ."""
    ours = json.loads(json.dumps(msgspec.to_builtins(search.described)))
    theirs = stored if isinstance(stored, dict) else {}
    return ", ".join(
        sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    )


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError("tune needs Optuna", hint="pip install 'tapewire[research]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _unusable(storage: str, error: Exception) -> StoreError:
    said = str(getattr(error, "orig", None) or error).splitlines()[0]
    return StoreError(
        f"the study's storage {make_url(storage).render_as_string(hide_password=True)} can't be used: {said}"
    )
