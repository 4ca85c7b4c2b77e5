"""Bundle files: a manifest and members in one ZIP file, of which every byte is checked when it is read.

Members are stored uncompressed with fixed times, so a manifest and its members have exactly one file. The
manifest holds the SHA-256 of each member, and the file's comment that of the manifest.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from agent.core.errors import DataError, UsageError
from agent.system.atomic import write_bytes

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1

_SAFE_NAME: Final = re.compile(r"(?:[a-z]+(?:-[A-Za-z0-9_-]+)?/)?[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
_COMMENT: Final = "tapewire bundle, manifest sha256 "
_HINT: Final = "get the file again from whom you have it"


class BundleMember(msgspec.Struct, frozen=True):
    """A file inside a bundle."""

    name: str
    sha256: str
    size: int  # bytes


class Manifest(msgspec.Struct, frozen=True):
    """What a bundle contains. A reader that knows another format refuses the file."""

    run: str
    kind: str
    version: str  # of Tapewire
    events: int
    decisions: int
    chain_head: str  # hex; empty if the run was not completed
    members: tuple[BundleMember, ...] = ()
    left_out: tuple[str, ...] = ()  # names of inputs of which only the hash is in the bundle
    notes: tuple[str, ...] = ()  # what differs from the store
    format: Literal[1] = FORMAT


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that was read and checked."""

    manifest: Manifest
    members: dict[str, bytes]
    sha256: str  # of the whole file


def is_bundle(path: Path) -> bool:
    """Return whether `path` is a file that begins like a bundle."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def write_bundle(path: Path, manifest: Manifest, members: Mapping[str, bytes]) -> str:
    """Write a bundle of `members`, whose hashes are added to `manifest`; return the file's SHA-256.

    Raises UsageError if `path` exists or can't be written.
    """
    if path.exists():
        raise UsageError(f"{path} exists", hint="name a new file; a bundle replaces nothing")
    listed = tuple(BundleMember(name, _sha256(body), len(body)) for name, body in members.items())
    content = _encode(msgspec.json.encode(msgspec.structs.replace(manifest, members=listed)), members)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from None
    return _sha256(content)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check each of its bytes. Raises DataError that names the damaged part."""
    try:
        content = path.read_bytes()
        with ZipFile(io.BytesIO(content)) as archive:
            comment = archive.comment
            found = {info.filename: archive.read(info) for info in archive.infolist()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is no bundle or is damaged: {error}", hint=_HINT) from None
    head = found.pop(MANIFEST, None)
    if head is None:
        raise DataError(f"{path} is no bundle: it has no {MANIFEST}")
    if comment != (_COMMENT + _sha256(head)).encode():
        raise DataError(f"{path} is damaged: {MANIFEST} or the file's comment was changed", hint=_HINT)
    try:
        manifest = msgspec.json.decode(head, type=Manifest)
    except (msgspec.DecodeError, ValueError) as error:
        hint = "a newer version of Tapewire may read it"
        raise DataError(f"{path}: its {MANIFEST} can't be read: {error}", hint=hint) from None
    for member in manifest.members:
        body = found.get(member.name)
        if not _SAFE_NAME.fullmatch(member.name):
            raise DataError(f"{path}: the name {member.name!r} of a member is not allowed")
        if body is None:
            raise DataError(f"{path} is damaged: {member.name} is missing", hint=_HINT)
        if _sha256(body) != member.sha256:
            raise DataError(f"{path} is damaged: {member.name} was changed", hint=_HINT)
    expected = _encode(head, {member.name: found[member.name] for member in manifest.members})
    if content != expected:
        at = next((i for i, pair in enumerate(zip(content, expected, strict=False)) if len({*pair}) > 1), 0)
        raise DataError(f"{path} is damaged: its directory differs at byte {at:,}", hint=_HINT)
    return Bundle(manifest, found, _sha256(content))


def safe_name(name: str) -> str:
    """Return `name` with only such characters as members may have."""
    return re.sub(r"^\.+|[^A-Za-z0-9._=-]", "_", name) or "_"


def _encode(manifest: bytes, members: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with ZipFile(target, "w", ZIP_STORED) as archive:
        for name, body in {MANIFEST: manifest, **members}.items():
            info = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, body)
        archive.comment = (_COMMENT + _sha256(manifest)).encode()
    return target.getvalue()


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
