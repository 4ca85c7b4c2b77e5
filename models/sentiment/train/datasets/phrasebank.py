"""Financial PhraseBank (Malo et al. 2014): `sentence@label` lines in latin-1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.core.errors import DataError
from models.labels import canonical
from models.sentiment.train.datasets import Example, Options, register


@register("phrasebank", published=2014)
def read(path: Path, _options: Options) -> Iterator[Example]:
    """Yield one example for each line. Copies that were converted to UTF-8 are accepted too."""
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        hint = "the official file is latin-1: iconv -f utf-16 -t latin1"
        raise DataError(f"{path}: looks like UTF-16", hint=hint)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        sentence, at, label = line.rpartition("@")
        where = f"{path}:{number}"
        if not at:
            hint = "each line must read sentence@label"
            raise DataError(f"{where}: no `@label` at the end of the line", hint=hint)
        yield Example(sentence, canonical(label, where=where), where=where)
