"""Encoding of a graph of plain objects, and decoding into a fresh graph: the format of the core's snapshots.

The result is msgpack without code: numbers, texts, containers, and objects as lists of their attributes. Only
classes that a `Spec` allows are instantiated, without calling their constructors. Every attribute of an
object is saved unless the spec lists it as wiring, so an attribute that is added later is saved or refused,
never silently omitted. Floats keep their 64 bits, decimals their exponent, dictionaries their order; sets are
sorted. An object with several references is restored as one object.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final

import msgspec
import numpy as np
from librt.vecs import vec

from agent.core.events import Decision, Event, Message

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder().decode
_message: Final = msgspec.msgpack.Decoder(Event | Decision).decode

# tags of nodes; stored, so their numbers must not change
_REF, _LIST, _TUPLE, _DICT, _SET, _FROZEN, _DEQUE, _DECIMAL = range(8)
_ENUM, _MESSAGE, _STRUCT, _NAMED, _ARRAY, _NUMBER, _OBJECT, _INT = range(8, 16)
_FLOAT: Final = 16  # an object of a subclass of float: its number and its slots
_DICTS: Final[tuple[type, ...]] = (dict, OrderedDict, Counter, defaultdict)
_FACTORIES: Final[Mapping[str, Callable[[], Any]]] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple, deque, Counter)
}


class Unencodable(Exception):
    """A value that isn't plain data; `path` is the chain of attributes to it."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.path = path

    def within(self, name: str) -> Unencodable:
        """Return the same error with `name`, an attribute of the enclosing object, prepended to the path."""
        return Unencodable(self.what, f"{name}.{self.path}" if self.path else name)

    def __str__(self) -> str:
        return f"{self.path} is {self.what}" if self.path else self.what


class StateError(Exception):
    """Data that doesn't fit the objects that it is decoded into."""


class Spec:
    """The classes that may be instantiated, and their attributes that aren't state.

    `modules` are names of modules, or of whole packages with a dot at the end. `wiring` has attributes by
    class (`module:Class`): references to configuration and callables, which a fresh object already has, and
    values that `rebuild` derives from the others. `first` has attributes by class that own objects to which
    other attributes refer. `blank` creates objects of classes that can't be created without arguments.
    """

    def __init__(
        self,
        modules: Iterable[str],
        *,
        wiring: Mapping[str, Iterable[str]],
        first: Mapping[str, tuple[str, ...]],
        rebuild: Mapping[str, Callable[[Any], None]],
        blank: Mapping[str, Callable[[], Any]],
    ) -> None:
        names = tuple(modules)
        self._modules = frozenset(name for name in names if not name.endswith("."))
        self._packages = tuple(name for name in names if name.endswith("."))
        self._wiring = {name: frozenset(attributes) for name, attributes in wiring.items()}
        self._first = dict(first)
        self.rebuild = dict(rebuild)
        self.blank = dict(blank)

    def allows(self, module: str) -> bool:
        """Return whether objects of this module's classes may be saved and created."""
        return module in self._modules or f"{module}.".startswith(self._packages)

    def attributes(self, one: Any) -> list[str]:
        """Return the attributes that are an object's state, in the order in which they are saved."""
        kind = type(one)
        names = {*getattr(kind, "__mypyc_attrs__", ()), *getattr(one, "__dict__", ())}
        wiring: set[str] = {"__dict__", "__weakref__"}
        first: tuple[str, ...] = ()
        for base in kind.__mro__:
            slots = () if "__mypyc_attrs__" in base.__dict__ else base.__dict__.get("__slots__", ())
            names.update((slots,) if isinstance(slots, str) else slots)
            wiring |= self._wiring.get(name_of(base), frozenset())
            first += self._first.get(name_of(base), ())
        return [*first, *sorted(names - wiring - set(first))]


def name_of(kind: type) -> str:
    """Return `module:Class`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def encode(roots: list[Any], spec: Spec) -> bytes:
    """Encode the graph behind `roots`. Raises Unencodable with the path to a value that isn't plain data."""
    encoder = _GraphEncoder(spec)
    try:
        return _pack([encoder.shapes, [encoder.value(root) for root in roots]])
    except RecursionError:
        raise Unencodable("nested too deep") from None
    except (UnicodeEncodeError, OverflowError) as error:
        raise Unencodable(f"text or a number that can't be stored ({error})") from None


def decode_into(data: bytes, roots: list[Any], spec: Spec) -> list[Any]:
    """Load the state in `data` into fresh `roots`, reusing the objects that they already have.

    A root that is None is created. Raises StateError, after which the roots must be discarded.
    """
    try:
        shapes, nodes = _unpack(data)
        decoder = _GraphDecoder(spec, shapes)
        if len(nodes) != len(roots):
            raise StateError(f"{len(nodes)} parts instead of {len(roots)}")
        return [decoder.value(node, root) for node, root in zip(nodes, roots, strict=True)]
    except _DECODING_ERRORS as error:
        raise StateError(f"it does not fit: {type(error).__name__}: {error}") from error


_DECODING_ERRORS: Final = (
    *(msgspec.MsgspecError, LookupError, TypeError, ValueError),
    *(AttributeError, ArithmeticError, RecursionError),
)


_PLAIN_BASES: Final = (dict, list, set, tuple, deque, str, bytes, int, float, BaseException)


class _GraphEncoder:
    def __init__(self, spec: Spec) -> None:
        self.shapes: list[tuple[str, list[str]]] = []
        self._spec = spec
        self._shape_numbers: dict[tuple[type, tuple[str, ...]], int] = {}
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps objects alive, since only then their ids are unique
        self._kinds: dict[type, Callable[[Any], Any]] = {
            int: self._int,
            list: self._list,
            vec[float]: self._list,  # packed floats, in earlier snapshots a list
            tuple: self._tuple,
            set: self._set,
            frozenset: self._frozen,
            deque: self._deque,
            Decimal: self._decimal,
        }
        for kind in _DICTS:
            self._kinds[kind] = self._dict

    def value(self, one: Any) -> Any:
        kind = type(one)
        if kind is float or kind is str or one is None or kind is bool or kind is bytes:
            return one
        encode = self._kinds.get(kind)
        return encode(one) if encode is not None else self._other(one, kind)

    def _seen(self, one: Any) -> list[int] | None:
        number = self._numbers.setdefault(id(one), len(self._numbers))
        if number < len(self._alive):
            return [_REF, number]
        self._alive.append(one)
        return None

    def _int(self, one: int) -> Any:
        return one if -(1 << 63) <= one < 1 << 64 else [_INT, str(one)]

    def _list(self, one: Iterable[Any]) -> Any:
        return self._seen(one) or [_LIST, *map(self.value, one)]

    def _tuple(self, one: tuple[Any, ...]) -> Any:
        return [_TUPLE, *map(self.value, one)]

    def _dict(self, one: dict[Any, Any]) -> Any:
        ref = self._seen(one)
        if ref is not None:
            return ref
        factory = None
        if isinstance(one, defaultdict) and one.default_factory is not None:
            factory = getattr(one.default_factory, "__name__", "")
            if _FACTORIES.get(factory) is not one.default_factory:
                raise Unencodable("a defaultdict whose factory is not a built-in type")
        value = self.value
        node = [_DICT, _DICTS.index(type(one)), factory]
        for key, item in one.items():
            node.append(value(key))
            try:
                node.append(value(item))
            except Unencodable as error:
                raise error.within(f"[{key!r}]") from None
        return node

    def _set(self, one: set[Any]) -> Any:
        return self._seen(one) or [_SET, *self._sorted(one)]

    def _frozen(self, one: frozenset[Any]) -> Any:
        return [_FROZEN, *self._sorted(one)]

    def _sorted(self, one: Iterable[Any]) -> list[Any]:
        return sorted(map(self.value, one), key=_pack)

    def _deque(self, one: deque[Any]) -> Any:
        return self._seen(one) or [_DEQUE, one.maxlen, *map(self.value, one)]

    def _decimal(self, one: Decimal) -> Any:
        return [_DECIMAL, str(one)]

    def _other(self, one: Any, kind: type) -> Any:
        if isinstance(one, Message):
            return [_MESSAGE, _pack(one)]
        if isinstance(one, np.ndarray) and kind is np.ndarray and not one.dtype.hasobject:
            return self._seen(one) or [_ARRAY, one.dtype.str, list(one.shape), one.tobytes()]
        if isinstance(one, np.generic) and not one.dtype.hasobject:
            return [_NUMBER, one.dtype.str, one.tobytes()]
        name = name_of(kind)
        if not self._spec.allows(kind.__module__) or "<" in kind.__qualname__ or isinstance(one, type):
            raise Unencodable(f"an object of {kind.__module__}.{kind.__qualname__}")
        if isinstance(one, Enum):
            return [_ENUM, name, self.value(one.value)]
        if isinstance(one, msgspec.Struct):
            return [_STRUCT, name, *(self.value(getattr(one, field)) for field in one.__struct_fields__)]
        if isinstance(one, tuple) and hasattr(kind, "_fields"):
            return [_NAMED, name, *map(self.value, one)]
        if isinstance(one, float) and not hasattr(one, "__dict__"):
            slots = [self.value(getattr(one, name)) for name in self._spec.attributes(one)]
            return [_FLOAT, name, float(one), *slots]
        if isinstance(one, _PLAIN_BASES) or callable(one):  # subclasses of plain types
            raise Unencodable(f"an object of {kind.__module__}.{kind.__qualname__}")
        return self._seen(one) or self._object(one, kind)

    def _object(self, one: Any, kind: type) -> Any:
        names = [name for name in self._spec.attributes(one) if hasattr(one, name)]
        key = kind, tuple(names)
        shape = self._shape_numbers.setdefault(key, len(self.shapes))
        if shape == len(self.shapes):
            self.shapes.append((name_of(kind), names))
        node = [_OBJECT, shape]
        for name in names:
            try:
                node.append(self.value(getattr(one, name)))
            except Unencodable as error:
                raise error.within(name) from None
        return node


class _GraphDecoder:
    def __init__(self, spec: Spec, shapes: list[tuple[str, list[str]]]) -> None:
        self._spec = spec
        self._shapes = shapes
        self._objects: list[Any] = []
        self._classes: dict[str, type] = {}
        self._kinds: tuple[Callable[[list[Any], Any], Any], ...] = (
            lambda node, _: self._objects[node[1]],
            self._list,
            lambda node, _: tuple(self.value(item) for item in node[1:]),
            self._dict,
            self._set,
            lambda node, _: frozenset(self.value(item) for item in node[1:]),
            self._deque,
            lambda node, _: Decimal(node[1]),
            lambda node, _: self._class(node[1], Enum)(self.value(node[2])),
            lambda node, _: _message(node[1]),
            lambda node, _: self._class(node[1], msgspec.Struct)(*(self.value(item) for item in node[2:])),
            lambda node, _: tuple.__new__(self._class(node[1], tuple), [self.value(one) for one in node[2:]]),
            lambda node, _: self._kept(np.frombuffer(node[3], np.dtype(node[1])).reshape(node[2]).copy()),
            lambda node, _: np.frombuffer(node[2], np.dtype(node[1]))[0],
            self._object,
            lambda node, _: int(node[1]),
            self._float,
        )

    def value(self, node: Any, old: Any = None) -> Any:
        """Decode `node`, reusing `old` if it is a container or object of the same kind."""
        return self._kinds[node[0]](node, old) if type(node) is list else node

    def _kept(self, one: Any) -> Any:
        self._objects.append(one)
        return one

    def _list(self, node: list[Any], old: Any) -> Any:
        if type(old) is vec[float]:
            return self._kept(vec[float](node[1:]))
        result: list[Any] = self._kept(old if type(old) is list else [])
        result.clear()
        result.extend(self.value(item) for item in node[1:])
        return result

    def _dict(self, node: list[Any], old: Any) -> Any:
        kind: Any = _DICTS[node[1]]
        result = old if type(old) is kind else kind()
        if node[2] is not None:
            result.default_factory = _FACTORIES[node[2]]
        self._objects.append(result)
        before = dict(result)
        result.clear()
        for at in range(3, len(node), 2):
            key = self.value(node[at])
            result[key] = self.value(node[at + 1], before.get(key))
        return result

    def _set(self, node: list[Any], old: Any) -> Any:
        result: set[Any] = self._kept(old if type(old) is set else set())
        result.clear()
        result.update(self.value(item) for item in node[1:])
        return result

    def _deque(self, node: list[Any], old: Any) -> Any:
        fits = type(old) is deque and old.maxlen == node[1]
        result: deque[Any] = self._kept(old if fits else deque(maxlen=node[1]))
        result.clear()
        result.extend(self.value(item) for item in node[2:])
        return result

    def _object(self, node: list[Any], old: Any) -> Any:
        name, names = self._shapes[node[1]]
        kind = self._class(name, object)
        if type(old) is not kind:
            blank = self._spec.blank.get(name)
            old = object.__new__(kind) if blank is None else blank()
        self._objects.append(old)
        for extra in set(getattr(old, "__dict__", ())) & set(self._spec.attributes(old)) - set(names):
            delattr(old, extra)
        if len(names) != len(node) - 2:
            raise StateError(f"{name} has {len(names)} attributes and {len(node) - 2} values")
        for attribute, item in zip(names, node[2:], strict=True):
            setattr(old, attribute, self.value(item, getattr(old, attribute, None)))
        rebuild = self._spec.rebuild.get(name)
        if rebuild is not None:
            rebuild(old)
        return old

    def _float(self, node: list[Any], old: Any) -> Any:
        one: Any = self._class(node[1], float)(node[2])
        for attribute, item in zip(self._spec.attributes(one), node[3:], strict=True):
            setattr(one, attribute, self.value(item))
        return one

    def _class(self, name: str, base: type) -> Any:
        found = self._classes.get(name)
        if found is None:
            module, _, path = name.partition(":")
            if not self._spec.allows(module):
                raise StateError(f"{name} is not a class of this state")
            found = sys.modules[module]  # type: ignore[assignment]
            for part in path.split("."):
                found = getattr(found, part)
            if not isinstance(found, type) or name_of(found) != name:
                raise StateError(f"{name} is not a class")
            self._classes[name] = found
        if not issubclass(found, base):
            raise StateError(f"{name} is another kind of class")
        return found
