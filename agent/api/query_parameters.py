"""Query parameters, checked against the struct of their route; cursors of pages."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from msgspec.inspect import IntType, Type, UnionType, VarTupleType, type_info
from multidict import MultiMapping

from agent.api.problems import RequestProblem
from agent.core.errors import did_you_mean

Q = TypeVar("Q", bound=msgspec.Struct)


def parse_query(kind: type[Q], given: MultiMapping[str]) -> Q:
    """Return the parameters as a struct. Raises RequestProblem that names the wrong one."""
    info: Any = type_info(kind)
    fields = {field.name: field.type for field in info.fields}
    values: dict[str, Any] = {}
    for name in dict.fromkeys(given):
        if name not in fields:
            known = f"it has {', '.join(fields)}" if fields else "the route has none"
            raise RequestProblem(
                "unknown-parameter",
                f"there is no parameter {name[:80]!r}",
                where=name[:80],
                hint=did_you_mean(name, fields, known),
            )
        texts = given.getall(name)
        if _is(fields[name], VarTupleType):
            values[name] = tuple(texts)
            continue
        if len(texts) > 1:
            raise _invalid(name, f"it is given {len(texts)} times", "give it once")
        is_number = _is(fields[name], IntType)
        digits = texts[0].isascii() and texts[0].isdigit() and len(texts[0]) <= 16
        if is_number and not digits:
            raise _invalid(name, f"{texts[0][:80]!r} is not a whole number", "write digits only")
        values[name] = int(texts[0]) if is_number else texts[0]
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise _invalid(where.rstrip("`").partition("[")[0], what, "") from None


def _is(kind: Type, wanted: type[Type]) -> bool:
    if isinstance(kind, UnionType):
        return any(_is(one, wanted) for one in kind.types)
    inner = getattr(kind, "type", None)  # of Metadata
    return isinstance(kind, wanted) or (isinstance(inner, Type) and _is(inner, wanted))


def _invalid(name: str, why: str, hint: str) -> RequestProblem:
    return RequestProblem("invalid-parameter", f"{name}: {why}", where=name, hint=hint)


def encode_cursor(listed: Iterable[object], position: tuple[int | str, ...]) -> str:
    """Return the cursor after a row at `position`; `listed` identifies the list and its filters."""
    body = msgspec.json.encode((_mark(listed), *position))
    return urlsafe_b64encode(body).decode().rstrip("=")


def decode_cursor(cursor: str, listed: Iterable[object], kind: type[Q]) -> Q:
    """Return the position of a cursor as the array-like struct `kind`. Raises RequestProblem."""
    try:
        mark, *position = msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list)
        if mark == _mark(listed):
            return msgspec.convert(position, kind)
    except (Base64Error, msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        pass
    raise RequestProblem(
        "invalid-parameter",
        "cursor: it belongs to no page of this list with these filters",
        where="cursor",
        hint="pass `cursor` of a page on with the same path and filters",
    )


def _mark(listed: Iterable[object]) -> str:
    return sha256(repr(tuple(listed)).encode("utf-8", "surrogatepass")).hexdigest()[:12]
