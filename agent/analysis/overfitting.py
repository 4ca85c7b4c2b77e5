"""The probability of backtest overfitting: is the best of many trials also good on other data?"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from agent.analysis.daily import Floats

BLOCKS: Final = 16
"""Parts of the window: one half selects, the other tests, in all 12,870 combinations."""


class Overfitting(msgspec.Struct, frozen=True):
    """Results over all splits of the window into a half that selects the best trial and a half that tests it.

    - `probability`: share of splits in which the selected trial is below the median of all trials in the test
      half. A selection without skill has about 0.5.
    - `loss`: share of splits in which the Sharpe ratio of the selected trial is not above zero in the test
      half.
    - `slope`: regression of the selected trial's ratio in the test half on its ratio in the selection half.
      If it is negative, trials that looked better did worse.
    """

    probability: float
    loss: float
    slope: float
    trials: int
    splits: int


def overfitting(returns: ArrayLike, *, blocks: int = BLOCKS) -> Overfitting | None:
    """Run combinatorially symmetric cross-validation by the Sharpe ratio.

    `returns` has shape (periods, trials). `blocks` must be even; the first periods that don't fill a block
    are left out, and ties count half in the rank. Returns None for fewer than two trials or two periods per
    block. Raises ValueError for wrong `blocks`.

    Bailey, Borwein, López de Prado and Zhu, "The probability of backtest overfitting", Journal of
    Computational Finance 20 (2017).
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
    """Return Sharpe ratios per period from sums over n periods; 0 if all returns are equal."""
    variance = (squares - sums * sums / n) / (n - 1)
    moved = variance > 1e-12 * squares / n
    return np.divide(sums / n, np.sqrt(np.where(moved, variance, 1.0)), out=np.zeros_like(sums), where=moved)
