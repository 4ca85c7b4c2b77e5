"""Passwords, tokens and keys in texts: wherever a URL or an error is shown, logged, stored or sent, `mask` comes first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

MASK: Final = "***"
"""What is shown instead."""

_LEAST: Final = 4  # characters of a secret that is looked for in other texts
_LEAST_USER: Final = 8  # of a user name, which may be a key; a shorter one may be ordinary text

_PARAMETER: Final = re.compile(
    r"(?i)secret|token|passw|passphrase|pwd|credential|session|signature|cookie|hmac|jwt|\bapi\b|\bsig\b|\bsign\b"
    r"|auth(?!or)|key(?!words?\b)"
)
"""Names of query parameters whose values are secret."""
_FIELD: Final = re.compile(
    r"(?i)(?:secret|token|password|passwd|api_?key|authorization|signature|cookie)(?!.*_files?$)"
)
"""Names of fields whose values are secret; those that end in _file say where a secret is."""

_PUBLIC_SCHEMES: Final = "https?|wss?|mqtts?|ftps?|file|unix|sqlite(?:\\+\\w+)?|postgres(?:ql)?(?:\\+\\w+)?|socks[45]?[ah]?|urn|feed"
_OPAQUE: Final = re.compile(
    rf"(?i)(?<![\w+.-])(?!(?:{_PUBLIC_SCHEMES})://)([a-z][a-z0-9+.-]*://)([^\s\"'<>\\]+)"
)
"""URLs of notification services: any part of them may be the token."""
_USER: Final = re.compile(
    # the second: a slash in the password
    r"(://)(?!USER@)((?:[^\s/?#\"'<>]*|[^\s/?#@:\"'<>]*:(?!\d+/)[^\s@\"'<>]*))(?=@)"
)
_QUERY: Final = re.compile(r"([?&;#]|&amp;)([^=&;#?\s\"'<>]+)=([^&;#\s\"'<>]+)")
_PATH: Final = re.compile(r"(?<=[^\s\"'<>])/([\w.~%+=:-]{20,})(?=[/?#\s\"'<>;,)\]]|$)")
_BOT: Final = re.compile(r"(?<![\w-])(bot)(\d+:[\w-]+)")
"""The path of a Telegram bot: its number and its token."""
_WEB: Final = re.compile(r"(?i)\b(?:https?|wss?|ftps?)://[^\s\"'<>]+")
_NAMED: Final = re.compile(
    r"(?i)((?:api[_-]?secret|api[_-]?key|secret[_-]?key|access[_-]?key|secret|password|passwd|pwd|token|authorization)"
    r"[\"']?\s*[:=]\s*(?:(?:bearer|basic|token)\s+)?)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)"
)


def mask(text: str) -> str:
    """The text without the secrets that its URLs and `name=value` pairs hold."""
    return _masked_text(text, str)


def secrets_in(url: str) -> tuple[str, ...]:
    """What `mask` hides of a URL, also as it reads when it is percent-decoded; the longest first."""
    found: set[str] = set()
    _masked_text(url, found.add)
    pairs = [secret.partition(":") for secret in found]
    found |= {password for _, _, password in pairs} | {
        user for user, _, _ in pairs if len(user) >= _LEAST_USER
    }
    found |= {unquote(secret) for secret in found}
    return tuple(
        sorted(
            (secret for secret in found if len(secret) >= _LEAST), key=lambda secret: (-len(secret), secret)
        )
    )


def mask_also(text: str, secrets: Sequence[str]) -> str:
    """`mask`, and each of the known `secrets` wherever it stands."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return mask(text)


def without_secrets(url: str) -> str:
    """The URL as a base for relative links: without user, query and fragment, and with what else `mask` hides masked."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return mask(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def masked(value: Any) -> Any:
    """Plain data with every text masked, and the whole value if its name marks it as secret."""
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
    """Whether a field of this name holds a secret: `token` does, `token_file` does not."""
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
    """Whether a text looks like a key: a long run of hexadecimal digits alone, or of capitals, small letters and digits mixed."""
    if re.fullmatch(r"[0-9a-fA-F]{32,}", text):
        return True
    return any(
        re.search(r"[0-9]", run) and re.search(r"[a-z]", run) and re.search(r"[A-Z]", run)
        for run in re.findall(r"[A-Za-z0-9_+=]{20,}", text)
    )
