"""CryptoLin: crypto headlines labelled by three people, with columns `date`, `text`, `label`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.tabular import rows


@register("cryptolin", published=2021)
def read(path: Path, options: Options) -> Iterator[Example]:
    """One example a headline, dated to the day."""
    return rows(path, options, options.date_column or "date")
