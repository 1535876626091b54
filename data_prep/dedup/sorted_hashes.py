"""Hashes of one unit's items, sorted on disk, so that a range of values is found and read without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from rwtrain.files import atomic_path

# Values looked at together: memory for one range is about fifty times this in bytes, whatever the size of the corpus.
VALUES_AT_ONCE = 1 << 18
ALL_VALUES = 1 << 64


@dataclass(frozen=True, slots=True)
class SortedHashes:
    """Files `PREFIX.values.npy` [rows, items] uint64, each row sorted, and `PREFIX.order.npy` [rows, items] uint32, which item has each value."""

    prefix: str
    items: int


def write_sorted(prefix: Path, hashes: np.ndarray) -> None:
    """Sort and write hashes, [rows, items] uint64."""
    order = np.argsort(hashes, axis=1, kind="stable")
    _save(prefix.with_name(f"{prefix.name}.values.npy"), np.take_along_axis(hashes, order, axis=1))
    _save(prefix.with_name(f"{prefix.name}.order.npy"), order.astype(np.uint32))


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def count_ranges(files: Sequence[SortedHashes]) -> int:
    """Into how many ranges of values the files have to be cut."""
    return max(1, -(-sum(file.items for file in files) // VALUES_AT_ONCE))


def repeats_in_range(files: Sequence[SortedHashes], row: int, number: int, ranges: int) -> np.ndarray:
    """Pairs (item, first item with the same hash) for one range of hash values, [pairs, 2] int64, by ascending item.

    Items are numbered through all files, in the order of the files.
    """
    slices = [(values, order, base) for values, order, base in _slices(files, row, number, ranges)]
    count = sum(len(values) for values, _, _ in slices)
    value, item = np.empty(count, np.uint64), np.empty(count, np.int64)
    filled = 0
    for values, order, base in slices:
        stop = filled + len(values)
        value[filled:stop] = values
        np.add(order, base, out=item[filled:stop], casting="unsafe")
        filled = stop
    del slices
    order = np.argsort(value, kind="stable")  # items stay ascending within equal values
    pairs = _pairs(value, item, order)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


@njit(cache=True, nogil=True)
def _pairs(value, item, order):
    """(Item, first item with the same value) of all but the first items, in sorted order."""
    count = 0
    for place in range(1, order.size):
        count += value[order[place]] == value[order[place - 1]]
    pairs = np.empty((count, 2), np.int64)
    count = 0
    first = 0
    for place in range(1, order.size):
        if value[order[place]] != value[order[place - 1]]:
            first = place
        else:
            pairs[count, 0] = item[order[place]]
            pairs[count, 1] = item[order[first]]
            count += 1
    return pairs


def _slices(files: Sequence[SortedHashes], row: int, number: int, ranges: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(Values, items, first item of the file) of every file that has values in the range; copied, so that no file stays mapped."""
    low, high = np.uint64(number * ALL_VALUES // ranges), np.uint64((number + 1) * ALL_VALUES // ranges - 1)
    base = 0
    for file in files:
        if file.items:
            values = np.load(f"{file.prefix}.values.npy", mmap_mode="r")[row]
            start, stop = int(np.searchsorted(values, low, "left")), int(np.searchsorted(values, high, "right"))
            if stop > start:
                order = np.load(f"{file.prefix}.order.npy", mmap_mode="r")[row, start:stop]
                yield np.array(values[start:stop]), np.array(order), base
        base += file.items
