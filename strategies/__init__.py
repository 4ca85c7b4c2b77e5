"""Built-in strategies, and the loader for them and for the strategies of users."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import ValidationError

from agent.core.errors import ConfigError, SafetyError, StrategyError, TapewireError, did_you_mean
from agent.core.strategy import Strategy

BUILT_IN: Final = {
    "buy_and_hold": "strategies.buy_and_hold:BuyAndHold",
    "fusion": "strategies.fusion:FusionStrategy",
    "sentiment": "strategies.sentiment:SentimentStrategy",
    "sma_cross": "strategies.sma_cross:SmaCross",
}

_LOADERS: Final = ((SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))

SOURCE_FILE: Final = "strategy_file"
SOURCE_SHA256: Final = "strategy_sha256"
"""Keys of `Run.versions`: path and SHA-256 of the module of a strategy that isn't built in."""


def load_strategy(name: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """Create a strategy by name (see `strategy_class`).

    Values in `params` may be texts from the command line. Raises ConfigError if a name or a value is not
    valid.
    """
    return create_strategy(strategy_class(name), params or {}, name)


def create_strategy(kind: type[Strategy], params: Mapping[str, Any], name: str) -> Strategy:
    """Create a strategy of a class that is called `name`. Raises ConfigError if a value is not valid."""
    try:
        return kind(kind.Params.model_validate(dict(params)))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, name, kind) for item in error.errors())) from None


def strategy_class(name: str) -> type[Strategy]:
    """Return the class of a strategy. Raises ConfigError if it does not exist.

    `name` is a built-in name, `package.module:Class`, `mine.py:Class`, or `mine.py` if the file defines one
    strategy. Modules are searched in the installed packages, then in the working folder.
    """
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    file = _file_of(module_name)
    if file is None and not (module_name and class_name):
        raise ConfigError(
            f"unknown strategy {name!r}",
            hint=did_you_mean(
                name,
                BUILT_IN,
                f"built in: {', '.join(BUILT_IN)}; or package.module:Class, or a file such as mine.py",
            ),
        )
    module = _import(module_name) if file is None else _import_file(file)
    return class_in(module, class_name, name, guess=file is not None)


def class_in(module: ModuleType, class_name: str, name: str, *, guess: bool) -> type[Strategy]:
    """Return a strategy of a module. With `guess` and without `class_name` it is the only one.

    Raises ConfigError that names the strategy `name` if there isn't one.
    """
    classes = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Strategy) and value is not Strategy
    ]
    if guess and not class_name:
        own = [key for key in classes if vars(module)[key].__module__ == module.__name__]
        if len(own) != 1:
            found = f"{len(own)} strategies: {', '.join(own)}" if own else "no strategies"
            hint = f"name one: {name}:{own[0]}" if own else "a strategy is a subclass of tapewire.Strategy"
            raise ConfigError(f"strategy {name!r}: {module.__file__} defines {found}", hint=hint)
        class_name = own[0]
    kind = getattr(module, class_name, None)
    if isinstance(kind, type) and issubclass(kind, Strategy):
        return kind
    what = "is not a Strategy" if kind is not None else "does not exist"
    raise ConfigError(
        f"strategy {name!r}: {class_name} {what} in {module.__file__}",
        hint=did_you_mean(class_name, classes, f"its strategies: {', '.join(classes) or 'none'}"),
    )


def source_hash(name: str) -> str:
    """Return the SHA-256 of a strategy's module and of the modules in its folder that it imports."""
    module = sys.modules[strategy_class(name).__module__]
    imported = [
        value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", ""))
        for value in vars(module).values()
    ]
    files = {Path(file) for one in (module, *imported) if (file := getattr(one, "__file__", None))}
    folder = Path(module.__file__ or "").parent
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.parent == folder):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def blaming(strategy: Strategy) -> Iterator[None]:
    """Convert errors of the strategy's own code to a StrategyError with file and line."""
    try:
        yield
    except Exception as error:
        own = own_error(strategy, error)
        if own is None or own is error:
            raise
        raise own from error


def own_error(strategy: Strategy, error: Exception) -> StrategyError | None:
    """Return an error of the strategy's own code as a StrategyError with file and line; None for others."""
    if isinstance(error, TapewireError):
        return error if isinstance(error, StrategyError) else None
    module = sys.modules[type(strategy).__module__]
    file = getattr(module, "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if frame.filename == file]
    if file is None:  # a notebook
        methods = {
            code.co_filename
            for value in vars(type(strategy)).values()
            if (code := getattr(value, "__code__", None)) is not None
        }
        places = [frame for frame in frames if frame.filename in methods]
    if not places:
        return None
    where = f"{places[-1].filename}, line {places[-1].lineno}"
    what = f"{where}: {type(error).__name__}: {error}"
    hint = ""
    if isinstance(error, AttributeError) and error.name:
        hint = did_you_mean(error.name, [name for name in dir(error.obj) if not name.startswith("_")])
    return StrategyError(f"strategy {type(strategy).__name__} failed: {what}", hint=hint)


def source_of(name: str) -> dict[str, str]:
    """Return path and SHA-256 of a strategy's source for `Run.versions`; empty for a built-in one.

    Imports nothing: packages are only located.
    """
    module = BUILT_IN.get(name, name).partition(":")[0]
    if _is_built_in(module):
        return {}
    path = _file_of(module) or _locate(module)
    if path is None:
        return {}
    try:
        return {SOURCE_FILE: str(path), SOURCE_SHA256: hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return {}


def check_source(name: str, recorded: Mapping[str, str]) -> None:
    """Raise SafetyError unless a recorded run's strategy is built in or is the file that the run used.

    A recorded run may come from another person, and name a module that must not be imported unseen.
    """
    module = BUILT_IN.get(name, name).partition(":")[0]
    if _is_built_in(module):
        return
    found, expected = source_of(name), {key: recorded.get(key, "") for key in (SOURCE_FILE, SOURCE_SHA256)}
    if found == expected:
        return
    if not expected[SOURCE_SHA256]:
        why = "the run was recorded without its source's hash"
    elif not found:
        why = f"{expected[SOURCE_FILE]} is not there"
    elif found[SOURCE_SHA256] != expected[SOURCE_SHA256]:
        why = f"{found[SOURCE_FILE]} has changed since the run"
    else:
        why = f"it was at {expected[SOURCE_FILE]}, not at {found[SOURCE_FILE]}"
    raise SafetyError(
        f"strategy {name!r} of this run is not imported: {why}",
        hint="if you trust that code: --trust-strategy",
    )


def _is_built_in(module: str) -> bool:
    return module.partition(".")[0] == __name__


def _locate(module: str) -> Path | None:
    """Return the file of a module without importing it or its packages; None without one."""
    package, *inside = module.split(".")
    spec = PathFinder.find_spec(package, _search_path())
    for number in range(len(inside)):
        # Not a package, so nothing can be inside
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = ".".join((package, *inside[: number + 1]))
        # PathFinder would import the parent of a namespace package
        found = (FileFinder(place, *_LOADERS).find_spec(name) for place in spec.submodule_search_locations)
        specs = [one for one in found if one is not None]
        spec = next((one for one in specs if one.loader is not None), None)
        if spec is None and specs:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [
                place for one in specs for place in one.submodule_search_locations or ()
            ]
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def _hint_of(name: str) -> str:
    """Explain where `name` was searched, or that an installed package hides one in the working folder."""
    package, _, rest = name.partition(".")
    own = Path(package, *rest.split(".")).with_suffix(".py")
    if rest and own.is_file():
        return (
            f"{own} is there, but {package!r} is an installed package: put it into a folder of another name"
        )
    return f"searched {Path.cwd()} and the installed packages"


def _search_path(folder: Path | None = None) -> list[str]:
    """Return `sys.path` with the working folder (or `folder`) last, so that it hides no installed module."""
    here = str(folder or Path.cwd())
    return sys.path if here in sys.path else [*sys.path, here]


def _file_of(module: str) -> Path | None:
    """Return the file if the name is one (`mine.py`, `folder/mine.py`); None if it is a module's name."""
    return Path(module).expanduser().resolve() if module.endswith(".py") else None


def _import_file(file: Path) -> ModuleType:
    """Import a file under its own name, with its folder last in the search path."""
    name = module_name_of(file)
    if _loaded_from(name) == file:
        return sys.modules[name]
    if not file.is_file():
        raise ConfigError(
            f"no such file: {file}", hint="a strategy is a file, mine.py, or package.module:Class"
        )
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise AssertionError(f"{file} ends in .py")
    module = sys.modules[name] = module_from_spec(spec)
    source = file.read_bytes()
    _CONTENT[file] = hashlib.sha256(source).hexdigest()
    note_source(module, source)
    try:
        with importing(file.name, file.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_CONTENT: Final[dict[Path, str]] = {}
"""SHA-256 of each strategy file when it was imported."""

_SOURCE: Final = "__tapewire_source__"


def module_name_of(file: Path) -> str:
    """Return the name under which a strategy's file is imported."""
    name = re.sub(r"\W", "_", file.stem)
    if (name in sys.modules and _loaded_from(name) != file) or name in sys.stdlib_module_names:
        name += "_" + hashlib.sha256(bytes(file)).hexdigest()[:8]  # the name is taken
    return name


def note_source(module: ModuleType, source: bytes) -> None:
    """Keep the source that a strategy's module was made from, since its file may change."""
    vars(module)[_SOURCE] = source


def imported_source(module: ModuleType) -> bytes | None:
    """Return the source that the module of a strategy's file was made from; None for other modules."""
    source = vars(module).get(_SOURCE)
    return source if isinstance(source, bytes) else None


def imported_sha256(file: Path) -> str:
    """Return the SHA-256 that a strategy's file had when it was imported; empty if it was not."""
    return _CONTENT.get(file, "")


def forget_if_changed(name: str) -> None:
    """Unload a strategy's file if it has changed since its import, as it does while a notebook is open."""
    file = _file_of(name.partition(":")[0])
    if file is None or not file.is_file():
        return
    imported = _CONTENT.get(file)
    if imported is not None and imported != hashlib.sha256(file.read_bytes()).hexdigest():
        del _CONTENT[file]
        for module in [one for one in sys.modules if _loaded_from(one) == file]:
            del sys.modules[module]


def _loaded_from(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file else None


def _import(name: str) -> ModuleType:
    with importing(name, None if _is_built_in(name) else Path.cwd()):
        importlib.invalidate_caches()
        module = importlib.import_module(name)
    if not _is_built_in(name) and (file := _loaded_from(name)) is not None and file.is_file():
        _CONTENT.setdefault(file, hashlib.sha256(file.read_bytes()).hexdigest())
    return module


@contextmanager
def importing(name: str, folder: Path | None) -> Iterator[None]:
    """Search `folder` last, and convert import errors to ConfigError."""
    before = list(sys.path)
    if folder is not None:
        sys.path[:] = _search_path(folder)
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"no module {error.name!r} for strategy {name!r}", hint=_hint_of(name)
            ) from None
        raise ConfigError(f"strategy module {name!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:  # a user's module may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line = frame.filename, frame.lineno
        if isinstance(error, SyntaxError):
            file, line = error.filename or file, error.lineno
        what = f"{file}, line {line}: {type(error).__name__}: {error}"
        raise ConfigError(f"strategy module {name!r} can't be imported: {what}") from error
    finally:
        if str(folder) in sys.path and str(folder) not in before:
            sys.path.remove(str(folder))


def _explain(item: Any, name: str, strategy: type[Strategy]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    where = f"strategy {name!r}"
    if item["type"] == "extra_forbidden":
        known = list(strategy.Params.model_fields)
        names = ", ".join(known) or "none"
        return f"{where}: unknown parameter {key} ({did_you_mean(key, known, f'it has {names}')})"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message}, got {item['input']!r}" if key else f"{where}: {message}"
