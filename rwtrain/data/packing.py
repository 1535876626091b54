"""Packing: which pieces of which documents share a row, so that almost no token of a batch is padding."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

PACKING_VERSION = 1  # to be raised when the same lengths give other rows


@dataclass(frozen=True)
class PackingPlan:
    """Rows as runs of segments.

    Attributes:
        row_offsets: row r holds segments row_offsets[r] to row_offsets[r + 1], [rows + 1] int64.
        document, start, length: of each segment: document index, first token in it, tokens, [segments] int64.
        seq_len: tokens of a row.
    """

    row_offsets: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    seq_len: int

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def fill(self) -> float:
        """Share of the rows' places that hold a token."""
        return float(self.length.sum()) / max(1, len(self) * self.seq_len)


def pack(lengths: np.ndarray, seq_len: int, *, min_tokens: int = 2) -> PackingPlan:
    """Cut documents into pieces of at most `seq_len` tokens and put them into rows by best-fit decreasing.

    Best-fit decreasing never needs more than 11/9 of the fewest rows possible (Johnson 1974), and keeps documents whole
    that fit (Ding et al. 2024, "Fewer truncations improve language modeling").

    Args:
        lengths: tokens of every document, [documents].
        min_tokens: shorter pieces predict nothing and are left out.
    """
    lengths = np.asarray(lengths, np.int64)
    pieces = -(-lengths // seq_len)
    document = np.repeat(np.arange(len(lengths)), pieces)
    start = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * seq_len
    length = np.minimum(seq_len, lengths[document] - start)
    kept = length >= min_tokens
    document, start, length = document[kept], start[kept], length[kept]
    row_of = _best_fit(length, seq_len)
    order = np.argsort(row_of, kind="stable")
    rows = int(row_of.max()) + 1 if len(row_of) else 0
    row_offsets = np.searchsorted(row_of[order], np.arange(rows + 1))
    return PackingPlan(row_offsets.astype(np.int64), document[order], start[order], length[order], seq_len)


def _best_fit(length: np.ndarray, seq_len: int) -> np.ndarray:
    """Row of each piece, [pieces] int64."""
    row_of = np.empty(len(length), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(seq_len + 1)]  # open_rows[free places] -> rows
    free_sizes: list[int] = []  # sorted free sizes that have a row
    rows = 0
    for piece in np.argsort(-length, kind="stable"):
        size = int(length[piece])
        at = bisect.bisect_left(free_sizes, size)
        if at == len(free_sizes):
            row, free = rows, seq_len
            rows += 1
        else:
            free = free_sizes[at]
            row = open_rows[free].pop()
            if not open_rows[free]:
                free_sizes.pop(at)
        row_of[piece] = row
        left = free - size
        if left:
            if not open_rows[left]:
                bisect.insort(free_sizes, left)
            open_rows[left].append(row)
    return row_of
