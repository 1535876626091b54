"""The order of samples as a pure function: a format-preserving permutation, so that any position is found in O(1)."""

from __future__ import annotations

import numpy as np

ROUNDS = 8
MASK_64 = np.uint64(0xFFFFFFFFFFFFFFFF)


def mix(value: np.ndarray) -> np.ndarray:
    """A 64-bit finaliser (SplitMix64, Steele et al. 2014): uint64 array in, well-mixed uint64 array out."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def random_uint64(seed: int, index: np.ndarray | int, stream: int = 0) -> np.ndarray:
    """Random numbers that depend on (seed, stream, index) alone, uint64 with `index`'s shape."""
    key = mix(mix(np.asarray([seed & int(MASK_64)], np.uint64)) ^ np.uint64(stream))
    index = np.asarray(index).astype(np.uint64)
    return mix(index.reshape(-1) ^ key).reshape(index.shape)


def random_uniform(seed: int, index: np.ndarray | int, stream: int = 0) -> np.ndarray:
    """`random_uint64` scaled to [0, 1), float64."""
    return (random_uint64(seed, index, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray | int, size: int, seed: int) -> np.ndarray:
    """Where a permutation of range(size), chosen by `seed`, sends each index.

    A balanced Feistel network over the smallest even number of bits that holds `size`, walked in cycles until the value
    falls inside the range (Black & Rogaway 2002): at most four steps on average, no memory.

    Args:
        index: integers in [0, size).
        size: length of the sequence, 1 to 2^62.
    """
    values = np.asarray(index).astype(np.uint64)
    shape, values = values.shape, values.reshape(-1).copy()
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = random_uint64(seed, np.arange(ROUNDS), stream=0x5045524D)
    pending = np.ones(len(values), bool)
    while pending.any():
        left, right = values[pending] >> half, values[pending] & low
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & low)
        values[pending] = (left << half) | right
        pending[pending] = values[pending] >= np.uint64(size)
    return values.astype(np.int64).reshape(shape)


def sample_at(position: np.ndarray | int, size: int, seed: int) -> np.ndarray:
    """The sample (0 … size − 1) at each position of an endless stream that shuffles anew in every epoch.

    Args:
        position: index into the endless stream, ≥ 0.
        size: number of samples of one epoch.
    """
    position = np.asarray(position, np.int64)
    epoch, offset = position // size, position % size
    result = np.empty_like(offset)
    for number in np.unique(epoch):
        chosen = epoch == number
        result[chosen] = permute(offset[chosen], size, int(random_uint64(seed, int(number), stream=1)))
    return result


def share_of_batch(step: int, *, index: int, accumulation: int, rank: int, world_size: int, items: int) -> np.ndarray:
    """Positions of a rank's `items` in micro-batch `index` of optimiser step `step`: its slice of a global batch that depends on no number of ranks."""
    first = (step * accumulation * world_size + index * world_size + rank) * items
    return np.arange(first, first + items)
