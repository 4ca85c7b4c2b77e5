"""Parameter search with Optuna, in sample only.

The best parameters are then tested on held-out time that no trial has seen.

Trials are drawn in batches. A batch replays the in-sample folds one by one, each in one pass for all of its
trials; the trials report after each fold, and hopeless ones are pruned and leave the batch. The study is
stored in a database: any number of processes on any number of machines can work on it, and it can be resumed.

The trials of a batch are drawn before any of them has a result. The sampler takes the running ones for bad
ones (`constant_liar`), so that it draws them apart from each other, and learns from a batch at once: a search
of n trials in batches of k has learnt n / k times. A median to be pruned by is that of the batches before.
"""

from __future__ import annotations

import json
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from agent.analysis.deflation import sharpes
from agent.analysis.overfitting import overfitting
from agent.analysis.significance import deflated_sharpe, moments_of, sharpe
from agent.core.errors import ConfigError, UsageError
from agent.core.events import DAY_MS
from agent.replay.evaluations import Evaluated, Result, input_files, record_results, versions_of
from agent.research.assessment import PERIODS_PER_YEAR
from agent.research.cluster_worker import HELD
from agent.research.fitters import NoFitter
from agent.research.folds import Fold, Window, make_folds
from agent.research.parallel import Advance, run_parallel
from agent.research.replay_window import LoadedWindow, with_params
from agent.research.study import (
    HEARTBEAT,
    STORAGE,
    Search,
    count_trials,
    open_study,
    storage_error,
    study_name,
)
from agent.research.tuning_results import RESULTS, TrialRecord, TuningResult, record_result
from agent.research.walk_forward import FOLDER, Settings, walk_forward
from agent.store.runs import InputFile
from agent.store.tries import Study, study_of, tries_on
from strategies import load_strategy
from strategies.description import Value

if TYPE_CHECKING:
    import optuna

__all__ = [
    "RESULTS",
    "STORAGE",
    "Search",
    "TuningResult",
    "count_trials",
    "evaluate_best",
    "split",
    "study_name",
]
__all__ += ["record_result", "toml_snippet", "tune"]

_BATCH: Final = "batch"
"""Attribute of a trial with the `id` of its batch."""

_NO_SHARPE: Final = -10.0  # value of a trial without a Sharpe ratio, which must not win


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


def tune(search: Search, *, workers: int = 1, shared: bool = False, advance: Advance | None = None) -> None:
    """Run the trials that the study still lacks, over `workers` processes.

    With `shared` they may be on other machines, so the study's storage must be a server. Raises what replays
    raise, StoreError, UsageError.

    With one worker the same seed and batch give the same trials; a resumed study draws new ones. `advance` is
    called once for each trial.
    """
    search = search._replace(storage=_reachable(search.storage, shared=shared))
    done = count_trials(search)
    missing = max(0, search.trials - done)
    size = max(1, min(search.batch, -(-missing // workers)))
    token = secrets.token_hex(8)
    batches = [
        _Batch(search, first, min(size, search.trials - first), token)
        for first in range(done, search.trials, size)
    ]
    sizes = iter([batch.size for batch in batches])

    def advance_batch() -> None:
        for _ in range(next(sizes)):
            if advance is not None:
                advance()

    try:
        run_parallel(_run_trials, batches, jobs=workers, advance=advance_batch, inputs=search.inputs)
    finally:
        _LOADED.clear()


def _reachable(storage: str, *, shared: bool) -> str:
    """Return the URL of a storage for processes in other folders. Raises UsageError if it is a file of this
    machine and they are on others.
    """
    prefix, separator, file = storage.partition("sqlite:///")
    if prefix or not separator or file in ("", ":memory:"):
        return storage
    if shared:
        raise UsageError(
            f"--storage {storage} is a file of this machine, and the trials run on others",
            hint="--storage postgresql://USER@HOST/NAME",
        )
    return f"sqlite:///{Path(file).absolute()}"


def evaluate_best(
    search: Search, held_out: Fold, settings: Settings, *, folder: Path = FOLDER, reused: int = 0
) -> TuningResult:
    """Test the study's best parameters on the held-out time.

    Raises UsageError if no trial is complete, SafetyError if the held-out time is spent.
    """
    import optuna

    study = open_study(search, create=False).study
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
    ratios = [_scaled_sharpe(search, trial) for trial in valued]
    periods = len(best.user_attrs["returns"])
    ratios += _other_tries(search, [trial.user_attrs["params"] for trial in valued], periods)
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    plan = search.inputs.plan._replace(warm_up=None)  # what these parameters need
    inputs = search.inputs._replace(plan=plan, config=with_params(search.inputs.config, params))
    tested = walk_forward(
        inputs,
        [held_out],
        NoFitter(),
        settings._replace(held_out=True),
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
        deflated_sharpe=deflated_sharpe(best.user_attrs["returns"], len(ratios), trial_sharpes=ratios),
        tries=len(ratios),
        overfitting=overfitting(np.column_stack(returns)),
        held_out=tested,
        reused=min(reused, search.trials),
        tried=[_trial_record(trial) for trial in trials],
    )


def _trial_record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    state = "invalid" if "invalid" in trial.user_attrs else trial.state.name.lower().replace("fail", "failed")
    ratio = trial.user_attrs.get("sharpe")  # of a day
    return TrialRecord(
        trial.number,
        dict(trial.user_attrs.get("params", {})),
        None if ratio is None else float(ratio) * PERIODS_PER_YEAR**0.5,
        state,
    )


def _scaled_sharpe(search: Search, trial: optuna.trial.FrozenTrial) -> float:
    """Return the daily Sharpe ratio of a trial; that of a pruned one is scaled as by `sharpes`."""
    lengths = [fold.test.end - fold.test.start for fold in search.folds]
    share: float = sum(lengths[: len(trial.intermediate_values)]) / sum(lengths)
    return float(trial.user_attrs["sharpe"]) * sqrt(share)


def _other_tries(search: Search, params: Sequence[dict[str, Any]], periods: int) -> list[float]:
    """Return the Sharpe ratios of the tries on the in-sample data that are not trials with `params`.

    They are scaled to `periods` days (see `sharpes`).
    """
    inputs = search.inputs
    files = input_files(inputs.plan)
    with inputs.database() as database:
        versions = inputs.scoring(database, search.folds[-1].test.end).versions
        known = tries_on(database, _in_sample(files, search))
    versions |= versions_of(inputs.config)
    own = {_evaluated(files, versions, search, one).variant for one in params}
    return sharpes((one for one in known if one.variant not in own), periods)


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


# -- a batch of trials, in any process ----------------------------------------------------------------------


class _Batch(NamedTuple):
    """`size` trials of a search, the first of which is number `first`; `token` is of the call of `tune`."""

    search: Search
    first: int
    size: int
    token: str

    @property
    def id(self) -> str:
        """What its trials are marked with."""
        return f"{self.token}-{self.first}"


class _LoadedSearch(NamedTuple):
    study: optuna.Study
    storage: optuna.storages.RDBStorage
    windows: list[LoadedWindow]


class _RunningTrial:
    """A trial with the daily returns of the folds so far."""

    def __init__(self, trial: optuna.Trial, params: dict[str, Any]) -> None:
        self.trial = trial
        self.params = params
        self.returns = np.empty(0)
        self.value = _NO_SHARPE

    def report(self, fold: int, returns: NDArray[np.float64]) -> None:
        """Add the returns of a fold, and report the annual Sharpe ratio so far."""
        self.returns = np.concatenate((self.returns, returns))
        ratio = sharpe(self.returns)
        self.value = _NO_SHARPE if ratio is None else ratio * PERIODS_PER_YEAR**0.5
        self.trial.set_user_attr("sharpe", ratio or 0.0)
        self.trial.report(self.value, fold)


_LOADED: dict[str, _LoadedSearch] = {}
"""The study that this process works on by the token of `tune`, kept between batches."""

HELD.append(_LOADED.clear)


def _run_trials(batch: _Batch) -> None:
    search = batch.search
    loaded = _LOADED.get(batch.token)
    if loaded is None:
        _LOADED.clear()  # one study at a time, because its events may fill the memory
        end = search.folds[-1].test.end
        windows = [
            search.inputs.load_window(fold.test, warmup=search.warmup, close_out=True, judged_from=end)
            for fold in search.folds
        ]
        opened = open_study(search, create=False, seed=search.seed + batch.first, checked=True)
        loaded = _LOADED[batch.token] = _LoadedSearch(*opened, windows)
    try:
        trials = loaded.study.get_trials(deepcopy=False)
        own = [trial for trial in trials if trial.user_attrs.get(_BATCH) == batch.id]
        lost = [trial for trial in own if trial.state == _states().RUNNING]
        for trial in lost:  # of a worker that was lost
            loaded.study.tell(trial.number, state=_states().FAIL)
        missing = search.trials - (len(trials) - len(lost))  # others may work on it
        _evaluate(loaded, batch, min(batch.size - (len(own) - len(lost)), missing))
    except SQLAlchemyError as error:
        raise storage_error(search.storage, error) from None


def _evaluate(loaded: _LoadedSearch, batch: _Batch, count: int) -> None:
    """Draw `count` trials and evaluate them together: the annual Sharpe ratio over all folds.

    Their state is `FAIL` after an error.
    """
    study, windows, search = loaded.study, loaded.windows, batch.search
    trials = _ask(study, count)
    for trial in trials:
        trial.set_user_attr(_BATCH, batch.id)
    unfinished = {trial.number: trial for trial in trials}
    try:
        running = [one for trial in trials if (one := _begin(study, search, trial)) is not None]
        evaluated = list(running)
        alive = {one.trial.number for one in running}
        for number in unfinished.keys() - alive:
            del unfinished[number]
        pulse = _Pulse(loaded.storage)
        for fold, window in enumerate(windows):
            pulse.trials = [one.trial for one in running]
            pulse.beat()
            found = window.replay_batch([one.params for one in running], progress=pulse.on_progress)
            for one, returns in zip(running, found, strict=True):
                one.report(fold, returns)
            if fold + 1 < len(windows):
                for one in [one for one in running if one.trial.should_prune()]:
                    study.tell(one.trial, state=_states().PRUNED)
                    del unfinished[one.trial.number]
                    running.remove(one)
            if not running:
                break
        for one in running:
            one.trial.set_user_attr("returns", one.returns.tolist())
            study.tell(one.trial, one.value)
            del unfinished[one.trial.number]
        _count(loaded, search, evaluated)
    finally:
        for trial in unfinished.values():
            study.tell(trial, state=_states().FAIL)


def _count(loaded: _LoadedSearch, search: Search, evaluated: Sequence[_RunningTrial]) -> None:
    """Record the trials of a batch in the ledger of tries, pruned ones with the folds until then."""
    files, versions = input_files(search.inputs.plan), loaded.windows[0].versions
    results = [
        Result(
            _evaluated(files, versions, search, one.params),
            DAY_MS,
            moments_of(one.returns),
            float(np.prod(1 + one.returns) - 1),
        )
        for one in evaluated
    ]
    with search.inputs.database() as database:
        record_results(database, _in_sample(files, search), results, by=search.inputs.by, kind="tune")


def _in_sample(files: Sequence[InputFile], search: Search) -> Study:
    return study_of(files, search.folds[0].test.start, search.folds[-1].test.end)


def _evaluated(
    files: Sequence[InputFile], versions: Mapping[str, str], search: Search, params: dict[str, Any]
) -> Evaluated:
    way = {"folds": [list(fold.test) for fold in search.folds], "warmup": search.warmup}
    config = with_params(search.inputs.config, params)
    return Evaluated(config, files, versions, search.inputs.plan.timezone, way)


def _ask(study: optuna.Study, count: int) -> list[optuna.Trial]:
    """Draw trials. Trials of processes that have died count as failed."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna expects heartbeats from `optimize` only
        optuna.storages.fail_stale_trials(study)
        return [study.ask() for _ in range(count)]


def _begin(study: optuna.Study, search: Search, trial: optuna.Trial) -> _RunningTrial | None:
    """Choose the trial's parameters; None, and the trial is pruned, if the strategy refuses them."""
    params = {item.name: item.suggest(trial) for item in search.ranges}
    trial.set_user_attr("params", params)
    config = with_params(search.inputs.config, params)
    try:
        load_strategy(config.strategy.name, config.strategy.params)
    except ConfigError as error:
        trial.set_user_attr("invalid", str(error))
        study.tell(trial, state=_states().PRUNED)
        return None
    return _RunningTrial(trial, params)


class _Pulse:
    """Informs the storage from time to time that the process works on its trials."""

    def __init__(self, storage: optuna.storages.RDBStorage) -> None:
        self.trials: list[optuna.Trial] = []
        self._storage = storage
        self._due = 0.0

    def beat(self) -> None:
        """Record a heartbeat of each trial."""
        self._due = time.monotonic() + HEARTBEAT / 2
        for trial in self.trials:
            self._storage.record_heartbeat(trial._trial_id)

    def on_progress(self, ts: int) -> None:
        """Record heartbeats if they are due."""
        if time.monotonic() >= self._due:
            self.beat()


def _states() -> Any:
    import optuna

    return optuna.trial.TrialState
