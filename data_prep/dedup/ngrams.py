"""Hashes of n-grams of words."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def ngram_hashes(folded, n):
    """Hash of every run of `n` words, [words - n + 1] uint64; punctuation (hash 0) is left out before."""
    words = folded[folded != 0]
    total = max(words.size - n + 1, 0)
    hashes = np.empty(total, np.uint64)
    for first in range(total):
        value = np.uint64(0x51ED270B0A1F39C1)
        for index in range(first, first + n):
            value = (value ^ words[index]) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(32)
        hashes[first] = value
    return hashes
