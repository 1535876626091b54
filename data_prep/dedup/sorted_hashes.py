"""Hashes of one unit's items, sorted on disk, so that a range of values is found and read without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwtrain.files import atomic_path

# Values looked at together: memory for one range is about a hundred times this in bytes, whatever the size of the corpus.
VALUES_AT_ONCE = 1 << 20
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
    parts = list(_slices(files, row, number, ranges))
    if not parts:
        return np.zeros((0, 2), np.int64)
    value = np.concatenate([values for values, _ in parts])
    item = np.concatenate([items for _, items in parts])
    order = np.argsort(value, kind="stable")  # items stay ascending within equal values
    value, item = value[order], item[order]
    is_first = np.r_[True, value[1:] != value[:-1]]
    first = item[np.maximum.accumulate(np.where(is_first, np.arange(len(value)), 0))]
    pairs = np.stack([item[~is_first], first[~is_first]], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _slices(files: Sequence[SortedHashes], row: int, number: int, ranges: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    low, high = np.uint64(number * ALL_VALUES // ranges), np.uint64((number + 1) * ALL_VALUES // ranges - 1)
    base = 0
    for file in files:
        if file.items:
            values = np.load(f"{file.prefix}.values.npy", mmap_mode="r")[row]
            start, stop = int(np.searchsorted(values, low, "left")), int(np.searchsorted(values, high, "right"))
            if stop > start:
                order = np.load(f"{file.prefix}.order.npy", mmap_mode="r")[row, start:stop]
                yield np.array(values[start:stop]), order.astype(np.int64) + base
        base += file.items
