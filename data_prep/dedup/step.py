"""Which documents of which unit are duplicates, over all units."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.clusters import Clusters
from data_prep.dedup.sorted_hashes import SortedHashes, count_ranges, repeats_in_range
from data_prep.plan import DedupNode
from data_prep.pool import Pool
from data_prep.work import Unit, code_hash, key_of
from rwtrain.files import atomic_path

EXACT_ROW = 0
LARGEST_SHOWN, PAIRS_SHOWN = 3, 2


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of duplicates: its size, and (unit, document of that unit) of its first members; the very first one stays."""

    size: int
    members: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Outcome of deduplication.

    Attributes:
        keep: for each unit, which documents stay, [documents] bool.
        exact: documents removed because an earlier one has the same text.
        fuzzy: further documents removed because an earlier one is nearly the same.
        sizes: (largest size of the bin, clusters), ascending.
        clusters: the largest clusters and a few pairs.
        cpu_seconds: time spent.
    """

    keep: list[np.ndarray]
    exact: int
    fuzzy: int
    sizes: list[tuple[int, int]]
    clusters: list[Cluster]
    cpu_seconds: float


def find_duplicates(files: Sequence[SortedHashes], keys: Sequence[str], config: DedupNode, pool: Pool) -> Duplicates:
    """Group the documents of all units by each row of their signatures, and keep the first of each cluster.

    Args:
        files: signatures of every unit, in plan order.
        keys: hashes of the units' results, for reuse.
        config: the plan's node.
        pool: runs one unit per signature row and range of values.
    """
    count, ranges = sum(file.items for file in files), count_ranges(files)
    places = [(row, number) for row in _rows(config) for number in range(ranges)]
    units = [
        Unit(
            "dedup",
            key_of("dedup", code_hash(), list(keys), row, number, ranges),
            8 * count // ranges,
            f"signature row {row}",
            (list(files), row, number, ranges),
        )
        for row, number in places
    ]
    results = pool.run(find_repeats, units, label="dedup")
    # A document has one text, so it is in one pair of the exact row at most.
    exact = sum(result["pairs"] for result, (row, _) in zip(results, places, strict=True) if config.exact and row == EXACT_ROW)
    found = Clusters(count, (np.load(pool.work.path("dedup", unit.key, ".npy"), mmap_mode="r") for unit in units))
    keep = found.keep
    bounds = np.cumsum([0] + [file.items for file in files])
    return Duplicates(
        keep=[keep[start:stop] for start, stop in itertools.pairwise(bounds)],
        exact=exact,
        fuzzy=count - int(keep.sum()) - exact,
        sizes=found.sizes(),
        clusters=[Cluster(size, [_place(member, bounds) for member in members]) for size, members in found.examples(largest=LARGEST_SHOWN, pairs=PAIRS_SHOWN)],
        cpu_seconds=sum(result["cpu_seconds"] for result in results),
    )


def _rows(config: DedupNode) -> list[int]:
    return [EXACT_ROW] * config.exact + [*range(1, 1 + config.bands)] * config.fuzzy


def _place(document: int, bounds: np.ndarray) -> tuple[int, int]:
    """(Unit, document of that unit)."""
    unit = int(np.searchsorted(bounds, document, side="right")) - 1
    return unit, int(document - bounds[unit])


def find_repeats(arguments: tuple[list[SortedHashes], int, int, int], prefix: Path) -> dict[str, Any]:
    """Do one unit: `prefix.npy` holds the pairs of `repeats_in_range`."""
    pairs = repeats_in_range(*arguments)
    with atomic_path(prefix.with_name(f"{prefix.name}.npy")) as temporary, open(temporary, "wb") as stream:
        np.save(stream, pairs)
    return {"pairs": len(pairs)}
