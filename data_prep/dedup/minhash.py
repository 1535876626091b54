"""MinHash signatures and their LSH bands (Broder 1997; bands as in Lee et al. 2022, arXiv 2107.06499)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from data_prep.words import Words

SEED = 0x52575452


def band_hashes(words: Words, *, ngram: int, bands: int, rows: int, seed: int = SEED) -> np.ndarray:
    """One 64-bit hash per band, [bands] uint64; texts with Jaccard similarity s of their word n-grams agree in a band with probability s^rows."""
    multipliers, offsets = _permutations(bands * rows, seed)
    return _band_hashes(words.folded, ngram, multipliers, offsets, bands, rows)


@lru_cache(maxsize=8)
def _permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    multipliers = generator.integers(0, 1 << 32, count, np.uint32) | np.uint32(1)
    return multipliers, generator.integers(0, 1 << 32, count, np.uint32)


@njit(cache=True, nogil=True)
def _band_hashes(folded, ngram, multipliers, offsets, bands, rows):
    shingles = np.empty(folded.size + 1, np.uint32)
    window = np.zeros(ngram, np.uint64)
    count = 0
    seen = 0
    for index in range(folded.size):
        if folded[index] == 0:
            continue
        window[seen % ngram] = folded[index]
        seen += 1
        if seen >= ngram:
            shingles[count] = _shingle(window, seen, ngram)
            count += 1
    if count == 0:
        shingles[0] = _shingle(window, seen, ngram)
        count = 1
    smallest = np.full(multipliers.size, np.uint32(0xFFFFFFFF), np.uint32)
    for index in range(count):
        shingle = shingles[index]
        for number in range(multipliers.size):
            # numba widens 32-bit products: every step is cut back to 32 bits, which also lets the loop run in vector lanes.
            value = np.uint32((shingle ^ offsets[number]) * multipliers[number])
            value = np.uint32((value ^ (value >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
            value = np.uint32(value ^ (value >> np.uint32(13)))
            smallest[number] = min(smallest[number], value)
    result = np.empty(bands, np.uint64)
    for band in range(bands):
        joined = np.uint64(band + 1)
        for row in range(rows):
            joined = (joined ^ np.uint64(smallest[band * rows + row])) * np.uint64(0x9E3779B97F4A7C15)
            joined ^= joined >> np.uint64(31)
        result[band] = joined
    return result


@njit(cache=True, nogil=True)
def _shingle(window, seen, ngram):
    value = np.uint64(0x9AE16A3B2F90404F)
    for step in range(ngram):
        value = (value ^ window[(seen + step) % ngram]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(32)
    return np.uint32(value >> np.uint64(16))
