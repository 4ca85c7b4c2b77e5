"""Masking of passwords, tokens and keys in every text that is shown, logged, stored or sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

MASK: Final = "***"
"""Replaces a secret."""

_MIN_SECRET: Final = 4  # characters; a shorter secret is not searched for in other texts
_MIN_USER: Final = 8  # characters; a user name may be a key, but a shorter one may be ordinary text

_PARAMETER: Final = re.compile(
    r"(?i)secret|token|passw|passphrase|pwd|credential|session|signature|cookie|hmac|jwt|\bapi\b|\bsig\b|"
    r"\bsign\b|auth(?!or)|key(?!words?\b)"
)
"""Names of query parameters whose values are secret."""
_FIELD: Final = re.compile(
    r"(?i)(?:secret|token|password|passwd|api_?key|authorization|signature|cookie)(?!.*_files?$)"
)
"""Names of fields whose values are secret; names that end in _file hold the path of a secret."""

_PUBLIC_SCHEMES: Final = (
    r"https?|wss?|mqtts?|ftps?|ray|tcp|file|unix|sqlite(?:\+\w+)?|postgres(?:ql)?(?:\+\w+)?|"
    r"socks[45]?[ah]?|urn|feed"
)
_OPAQUE: Final = re.compile(
    rf"(?i)(?<![\w+.-])(?!(?:{_PUBLIC_SCHEMES})://)([a-z][a-z0-9+.-]*://)([^\s\"'<>\\]+)"
)
"""URLs of notification services, of which any part may be a token."""
_USER: Final = re.compile(
    # the second: a slash in the password
    r"(://)(?!USER@)((?:[^\s/?#\"'<>]*|[^\s/?#@:\"'<>]*:(?!\d+/)[^\s@\"'<>]*))(?=@)"
)
_QUERY: Final = re.compile(r"([?&;#]|&amp;)([^=&;#?\s\"'<>]+)=([^&;#\s\"'<>]+)")
_PATH: Final = re.compile(r"(?<=[^\s\"'<>])/([\w.~%+=:-]{20,})(?=[/?#\s\"'<>;,)\]]|$)")
_BOT: Final = re.compile(r"(?<![\w-])(bot)(\d+:[\w-]+)")
"""Path of a Telegram bot: its number and token."""
_WEB: Final = re.compile(r"(?i)\b(?:https?|wss?|ftps?)://[^\s\"'<>]+")
_NAMED: Final = re.compile(
    r"(?i)((?:api[_-]?secret|api[_-]?key|secret[_-]?key|access[_-]?key|secret|password|passwd|pwd|token|"
    r"authorization)[\"']?\s*[:=]\s*(?:(?:bearer|basic|token)\s+)?)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)"
)


def mask(text: str) -> str:
    """Mask the secrets in URLs and `name=value` pairs of a text."""
    return _masked_text(text, str)


def secrets_in(url: str) -> tuple[str, ...]:
    """Return what `mask` hides in a URL, also in percent-decoded form, longest first."""
    found: set[str] = set()
    _masked_text(url, found.add)
    pairs = [secret.partition(":") for secret in found]
    found |= {password for _, _, password in pairs} | {user for user, _, _ in pairs if len(user) >= _MIN_USER}
    found |= {unquote(secret) for secret in found}
    long_enough = (secret for secret in found if len(secret) >= _MIN_SECRET)
    return tuple(sorted(long_enough, key=lambda secret: (-len(secret), secret)))


def mask_also(text: str, secrets: Sequence[str]) -> str:
    """Mask a text, and each of the known `secrets` wherever it occurs."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return mask(text)


def without_secrets(url: str) -> str:
    """Return a masked URL without user, query and fragment, as a base for relative links."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return mask(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def masked(value: Any) -> Any:
    """Mask every text in plain data, and the whole value of a field whose name marks it as secret."""
    match value:
        case str():
            return mask(value)
        case Mapping():
            return {
                key: MASK if item and is_secret_field(str(key)) else masked(item)
                for key, item in value.items()
            }
        case list() | tuple():
            return [masked(item) for item in value]
        case _:
            return value


def is_secret_field(name: str) -> bool:
    """Return whether a field of this name holds a secret: `token` does, `token_file` does not."""
    return _FIELD.search(name) is not None


def _masked_text(text: str, found: Callable[[str], object]) -> str:
    def hide(secret: str) -> str:
        if secret.strip("\"'") not in ("", MASK):
            found(secret.strip("\"'"))
        return MASK

    if "://" in text:
        text = _OPAQUE.sub(lambda hit: hit[1] + hide(hit[2]), text)
        text = _USER.sub(
            lambda hit: hit[0] if hit[2].endswith(f":{MASK}") or not hit[2] else hit[1] + hide(hit[2]), text
        )
        text = _WEB.sub(lambda hit: _PATH.sub(lambda part: _path_part(part, hide), hit[0]), text)
    if "=" in text:
        text = _QUERY.sub(
            lambda hit: f"{hit[1]}{hit[2]}={hide(hit[3])}" if _is_secret(hit[2], hit[3]) else hit[0], text
        )
    if "bot" in text:
        text = _BOT.sub(lambda hit: hit[1] + hide(hit[2]), text)
    if "=" in text or ":" in text:
        text = _NAMED.sub(lambda hit: hit[1] + _in_quotes(hit[2], hide), text)
    return text


def _is_secret(name: str, value: str) -> bool:
    return _PARAMETER.search(unquote(name)) is not None or _looks_random(value)


def _in_quotes(value: str, hide: Callable[[str], str]) -> str:
    quote = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    return f"{quote}{hide(value)}{quote}"


def _path_part(part: re.Match[str], hide: Callable[[str], str]) -> str:
    return f"/{hide(part[1])}" if _looks_random(part[1]) else part[0]


def _looks_random(text: str) -> bool:
    """Return whether a text looks like a key: hexadecimal, or a long mix of digits and both cases."""
    if re.fullmatch(r"[0-9a-fA-F]{32,}", text):
        return True
    return any(
        re.search(r"[0-9]", run) and re.search(r"[a-z]", run) and re.search(r"[A-Z]", run)
        for run in re.findall(r"[A-Za-z0-9_+=]{20,}", text)
    )
