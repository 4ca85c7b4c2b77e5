"""Purged and embargoed parts of time (López de Prado 2018, Advances in Financial Machine Learning, 7.4).

    |  train  |xx|  validation  |xx|  calibration  |xx|  test  |

Purged: a row whose label reaches into the next part is dropped. Embargoed: a row within `embargo` after a cut
is dropped, because its features still overlap those of the part before.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.system.clock import iso
from models.fusion import CLASSES
from models.fusion.train.fusion_recipe import FusionRecipe

Ints = NDArray[np.int64]

PARTS: Final = ("train", "validation", "calibration", "test")


class Parts(NamedTuple):
    """Row numbers of each part, in order of time."""

    train: Ints
    validation: Ints
    calibration: Ints
    test: Ints


def split(
    ts: Ints, label: Ints, recipe: FusionRecipe, *, start: int, end: int, test_until: int | None = None
) -> Parts:
    """Cut [start, end) by the recipe's shares of time. Rows without a label (negative) are in no part.

    With `test_until`, all of [start, end) trains, validates and calibrates, and the test part is [end,
    test_until). Raises DataError if the train, validation or calibration part lacks a class.
    """
    test = 0.0 if test_until is not None else recipe.test
    train = 1.0 - recipe.validation - recipe.calibration - test
    shares = np.cumsum([train, recipe.validation, recipe.calibration])
    cuts = [start + round((end - start) * share) for share in shares.tolist()]
    edges = [start, *cuts, end if test_until is None else test_until]
    known = label >= 0
    found = []
    for number, (begin, finish) in enumerate(pairwise(edges)):
        rest = begin + recipe.embargo if number else begin
        found.append(np.flatnonzero(known & (ts >= rest) & (ts + recipe.horizon < finish)))
    parts = Parts(*found)
    for name in PARTS[:3]:
        counts = np.bincount(label[getattr(parts, name)], minlength=len(CLASSES))
        if not counts.all():
            classes = zip(CLASSES, counts.tolist(), strict=True)
            have = ", ".join(f"{count:,} {kind}" for kind, count in classes)
            raise DataError(
                f"the {name} part of {iso(start)} to {iso(end)} has {have}",
                hint="a longer window, another --horizon or --band, or smaller held-out shares",
            )
    return parts
