"""Cleaning of headlines, and abstention from those that a model of English headlines can't judge.

Training and serving must clean text in the same way. This is the only code that changes text before the
tokenizer, and its `VERSION` is part of every model's fingerprint.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final

VERSION: Final = 1
"""Version of `clean`. Increment it with every change, so that cached scores of differently cleaned text
are not used.
"""

MAX_CHARACTERS: Final = 2_000
"""Longest cleaned text. Input is cut before cleaning, so a hostile megabyte costs no more than a
paragraph.
"""

EMPTY: Final = "no words"
NOT_ENGLISH: Final = "not English"

_MARKUP = re.compile(r"<[^<>]{0,200}>")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_RETWEET = re.compile(r"^RT\s+@\w+:?\s*")
_HANDLE = re.compile(r"(?<!\w)@\w+")
_TAG = re.compile(r"(?<!\w)[$#](?=[A-Za-z])")  # $BTC and #Bitcoin become BTC and Bitcoin; $5 stays
_REPEAT = re.compile(r"([^\w\s])\1{2,}")  # "!!!!!!" becomes "!"
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[^\W\d_]+")
_CUT_OFF = " .…-–—|:"


def clean(text: str) -> str:
    """Return the text without markup, links, handles and control characters; cashtags and hashtags become
    words.

    Accepts any string and returns at most `MAX_CHARACTERS`. Idempotent.
    """
    text = html.unescape(text[: 2 * MAX_CHARACTERS])
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " if c.isspace() else "" for c in text)
    for pattern, replacement in (
        (_MARKUP, " "),
        (_URL, " "),
        (_RETWEET, ""),
        (_HANDLE, " "),
        (_TAG, ""),
        (_REPEAT, r"\1"),
        (_SPACE, " "),
    ):
        text = pattern.sub(replacement, text)
    return text[:MAX_CHARACTERS].strip(_CUT_OFF)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The most common function words of English and of other languages in crypto feeds
_ENGLISH: Final = _words(
    "the a an of to in on for and or is are was were be been as at by with from that this it its will has "
    "have had not but "
    "after over amid into than more new up down out his her their our your you we they he she what why how "
    "when who can could "
    "may no do me so"
)
_FOREIGN: Final = {
    "German": _words(
        "der die das und ist nicht mit für von den dem ein eine einen auf im zu sich wird nach bei auch über "
        "wie"
    ),
    "French": _words(
        "le la les des du et est une un dans pour sur avec qui que au aux par plus ce cette son ses après "
        "selon"
    ),
    "Spanish": _words(
        "el la los las de del en que un una por con para su se es al como más tras sobre según pero lo"
    ),
    "Italian": _words(
        "il la lo gli le di del della che un una per con non sono nel alla dei delle dopo più anche si"
    ),
    "Portuguese": _words(
        "os as de do da dos das em que um uma para com não na por mais após se ao pela pelo"
    ),
    "Dutch": _words(
        "de het een en van ik is dat die niet op te zijn voor met aan er om bij ook naar uit door over wordt"
    ),
    "Turkish": _words("ve bir bu için ile da de olarak daha çok en gibi kadar sonra ne oldu olan yeni yüzde"),
    "Indonesian": _words(
        "yang dan di ke dari untuk dengan ini itu pada akan tidak dalam adalah telah oleh saat lebih"
    ),
    "Vietnamese": _words(
        "và của là có được cho không trong với các này một những đã khi từ người sẽ vào tăng giá"
    ),
    "Polish": _words("na do nie się że jest po za od jak przez dla są oraz ale już będzie to"),
}
_MIN_LATIN: Final = 0.5
_MIN_FOREIGN_HITS: Final = 2


def abstention_reason(cleaned: str) -> str:
    """Return why a model of English headlines must not judge this cleaned text, or "" if it may.

    A text is not English if under half of its letters are Latin, or if it has at least two function words of
    one foreign language, more than of English, and a quarter of all words. This detects a feed in the wrong
    language; a foreign text of few words, or without function words, passes.
    """
    words = _WORD.findall(cleaned.lower())
    letters = "".join(words)
    if len(letters) < 2:
        return EMPTY
    latin = sum(character < "\u0250" or "\u1e00" <= character < "\u1f00" for character in letters)
    if latin < _MIN_LATIN * len(letters):
        return NOT_ENGLISH
    others = [word for word in words if word not in _ENGLISH]
    english = len(words) - len(others)
    for foreign in _FOREIGN.values():
        hits = sum(word in foreign for word in others)
        if hits >= _MIN_FOREIGN_HITS and hits > english and 4 * hits >= len(words):
            return NOT_ENGLISH
    return ""
