"""What histories hold near each other: counts of items, without a network. Mixed with the network's cosines, they carry what is learned by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

REACH = 100
"""Places over which two items of a history count as near; the weight is 1 / distance."""
RECENT = 100
"""Items of a history that are asked: the k-th last with weight 1 / k."""
BACKWARD = 0.5
"""Weight of what stood before, beside what came after."""
FLOOR = 0.1
"""Share of popularity in the mixture: an item without neighbours is not impossible."""
WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Weights of the log of the mixture beside the cosine that validation chooses among."""


@dataclass(frozen=True)
class Neighbours:
    """`near` [N, N]: counts of item j near item i, divided by the root of both frequencies; `popularity` [N] sums to 1, no item has 0."""

    near: sp.csr_matrix
    popularity: np.ndarray

    @classmethod
    def count(cls, histories: Sequence[np.ndarray], items: int) -> Neighbours:
        """Count in histories of item numbers, the oldest first."""
        counts = sp.csr_matrix((items, items), dtype=np.float32)
        for distance in range(1, REACH + 1):
            long = [history for history in histories if len(history) > distance]
            if not long:
                break
            first, second = np.concatenate([history[:-distance] for history in long]), np.concatenate([history[distance:] for history in long])
            counts = counts + sp.csr_matrix((np.full(len(first), 1 / distance, np.float32), (first, second)), shape=counts.shape)
        frequency = np.bincount(np.concatenate([np.zeros(0, np.int64), *histories]), minlength=items)
        damp = sp.diags((1 / np.sqrt(np.maximum(frequency, 1))).astype(np.float32))
        near = (damp @ (counts + BACKWARD * counts.T) @ damp).tocsr()
        return cls(near, ((frequency + 1) / (frequency + 1).sum()).astype(np.float32))

    def score(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Log of the share of each item among what is near each history's last items, mixed with popularity, [histories, N] float32."""
        recent = [history[-RECENT:][::-1] for history in histories]
        rows = np.repeat(np.arange(len(recent)), [len(history) for history in recent])
        weights = np.concatenate([1 / np.arange(1, len(history) + 1) for history in recent]).astype(np.float32)
        asked = sp.csr_matrix((weights, (rows, np.concatenate(recent))), shape=(len(recent), len(self.popularity)))
        found = (asked @ self.near).toarray()
        found /= np.maximum(found.sum(1, keepdims=True), 1e-9)
        return np.log((1 - FLOOR) * found + FLOOR * self.popularity).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """For saving."""
        return {"data": self.near.data, "indices": self.near.indices, "indptr": self.near.indptr, "popularity": self.popularity}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Neighbours:
        """From what `arrays` gave.

        Raises:
            KeyError, ValueError: something is missing, or the arrays do not fit together.
        """
        items = len(arrays["popularity"])
        near = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(items, items))
        near.check_format(full_check=True)  # scipy would read outside the arrays otherwise
        return cls(near, arrays["popularity"])
