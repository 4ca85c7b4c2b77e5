"""The probability of backtest overfitting: does the best of many trials stay good where it was not chosen?"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BLOCKS: Final = 16
"""Parts of the window; half of them choose, half judge, in all 12,870 ways."""


class Overfitting(msgspec.Struct, frozen=True):
    """Over all ways to split the window into two halves, one that chooses the best trial and one that judges it.

    - `probability`: share of splits in which the chosen trial was below the median of all in the other half. A choice without any
      skill has about 0.5.
    - `loss`: share of splits in which the chosen trial's Sharpe ratio was not above zero in the other half.
    - `slope`: of the chosen trial's ratio in the judging half on that in the choosing half; negative: the better it looked, the
      worse it did.
    """

    probability: float
    loss: float
    slope: float
    trials: int
    splits: int


def overfitting(returns: ArrayLike, *, blocks: int = BLOCKS) -> Overfitting | None:
    """Combinatorially symmetric cross-validation of trials' `returns`, shape (periods, trials), of the same periods.

    Bailey, Borwein, López de Prado and Zhu, "The probability of backtest overfitting", Journal of Computational Finance 20 (2017),
    by the Sharpe ratio; ties count half in the rank. `blocks` is even; the first periods that don't fill a block are left
    out. None for fewer than two trials or two periods a block.
    """
    table = np.asarray(returns, np.float64)
    if blocks < 2 or blocks % 2:
        raise ValueError(f"blocks must be even and positive, not {blocks}")
    trials = table.shape[1] if table.ndim == 2 else 0
    length = len(table) // blocks
    if trials < 2 or length < 2:
        return None
    parts = table[-length * blocks :].reshape(blocks, length, trials)
    sums, squares = parts.sum(axis=1), np.square(parts).sum(axis=1)
    chosen = np.array(
        [[block in half for block in range(blocks)] for half in combinations(range(blocks), blocks // 2)],
        float,
    )
    size = length * blocks // 2
    inside = _sharpes(chosen @ sums, chosen @ squares, size)
    outside = _sharpes((1 - chosen) @ sums, (1 - chosen) @ squares, size)
    rows = np.arange(len(chosen))
    best = inside.argmax(axis=1)
    looked, did = inside[rows, best], outside[rows, best]
    rank = (outside < did[:, None]).sum(axis=1) + ((outside == did[:, None]).sum(axis=1) + 1) / 2
    share = rank / (trials + 1)
    spread = float(np.square(looked - looked.mean()).sum())
    return Overfitting(
        probability=float((share < 0.5).mean() + (share == 0.5).mean() / 2),
        loss=float((did <= 0).mean()),
        slope=float((looked - looked.mean()) @ (did - did.mean())) / spread if spread > 0 else 0.0,
        trials=trials,
        splits=len(chosen),
    )


def _sharpes(sums: Floats, squares: Floats, n: int) -> Floats:
    """Ratios per period from sums over n periods; 0 where nothing moved."""
    variance = (squares - sums * sums / n) / (n - 1)
    moved = variance > 1e-12 * squares / n
    return np.divide(sums / n, np.sqrt(np.where(moved, variance, 1.0)), out=np.zeros_like(sums), where=moved)
