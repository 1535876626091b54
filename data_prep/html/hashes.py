"""Hashes of short ASCII names and open-addressing tables of them, the same in Python and in compiled code."""

from __future__ import annotations

import numpy as np

from data_prep.html.compiled import part

START = np.uint64(0xCBF29CE484222325)
STEP = np.uint64(0x100000001B3)


def hash_of(name: str) -> int:
    """FNV-1a, 64 bits."""
    value = int(START)
    for byte in name.encode("ascii"):
        value = ((value ^ byte) * int(STEP)) & 0xFFFFFFFFFFFFFFFF
    return value


def table_of(values: dict[int, int], *, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys, [size] uint64, 0 where there is none, and values, [size] int64; `size` is a power of two."""
    keys, found = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for key, value in values.items():
        slot = key % size
        while keys[slot]:
            slot = (slot + 1) % size
        keys[slot], found[slot] = key, value
    return keys, found


@part
def look_up(key, keys, values, missing):
    """The value of a key."""
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    return missing
