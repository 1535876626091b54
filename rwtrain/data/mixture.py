"""Mixtures: which source stands at a position of an endless stream, and which of that source's own positions it is, in O(1)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LONGEST_PERIOD = 1_000_000


class Mixture:
    """Sources mixed by weight with a repeating schedule.

    After any number n of positions, source i has had n · share_i of them, less than one more or less; after each period exactly. So every
    stretch of training sees the mixture that was asked for, and nothing has to be remembered.

    Args:
        weights: relative weights > 0, as decimal numbers: 0.7 is 7/10. Weights that need a period of more than `LONGEST_PERIOD`
            are rounded to shares of a millionth, none to nothing.

    Attributes:
        counts: positions of each source in one period.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = period_counts(weights)
        self.period = sum(self.counts)
        self.source_at = schedule(self.counts)
        self.rank_at = np.empty(self.period, np.int64)  # how many positions of the same source are before this one in the period
        for source, count in enumerate(self.counts):
            self.rank_at[self.source_at == source] = np.arange(count)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, position in that source's own endless stream) of each position, both int64 with the shape of `positions`."""
        positions = np.asarray(positions, np.int64)
        period, place = positions // self.period, positions % self.period
        source = self.source_at[place]
        return source, period * np.asarray(self.counts)[source] + self.rank_at[place]


def period_counts(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in the ratio of the weights; their sum is the period."""
    fractions = [Fraction(str(weight)) for weight in weights]
    if not fractions or min(fractions) <= 0:
        raise ValueError("the weights of a mixture must be positive")
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*counts)
    counts = [count // divisor for count in counts]
    if sum(counts) <= LONGEST_PERIOD:
        return counts
    exact = [Fraction(count * LONGEST_PERIOD, sum(counts)) for count in counts]
    rounded = [max(1, math.floor(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda source: rounded[source] - exact[source])  # those cut most first
    for source in order[: max(0, LONGEST_PERIOD - sum(rounded))]:
        rounded[source] += 1
    return rounded


def schedule(counts: Sequence[int]) -> np.ndarray:
    """The source of each position of one period, [sum(counts)] int64.

    Source i's j-th position lies in its window [j·P/c, (j+1)·P/c); among those whose window has begun, the one whose window ends first
    gets the position. That is earliest-deadline-first scheduling of one processor, where a place in every window is always found
    (Baruah et al. 1996, "Proportionate progress"), so that no source is ever a whole position ahead or behind.
    """
    period = sum(counts)
    waiting = [(0, source, 0) for source in range(len(counts))]  # (begin of the window, source, j)
    ready: list[tuple[int, int, int]] = []  # (end of the window, source, j)
    found = np.empty(period, np.int64)
    for position in range(period):
        while waiting and waiting[0][0] <= position:
            _, source, number = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(number + 1) * period // counts[source]), source, number))
        _, source, number = heapq.heappop(ready)
        found[position] = source
        heapq.heappush(waiting, ((number + 1) * period // counts[source], source, number + 1))
    return found
