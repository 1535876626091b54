"""Second step: which documents of which unit go, over all units."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.clusters import Signatures, clusters, edges_of_row
from data_prep.plan import DedupNode
from data_prep.pool import Pool, Unit
from data_prep.work import code_hash, key_of
from rwtrain.files import atomic_path

EXACT_ROW = 0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Outcome of deduplication.

    Attributes:
        keep: for each unit, which documents stay, [documents] bool.
        exact: documents removed because an earlier one has the same text.
        fuzzy: further documents removed because an earlier one is nearly the same.
        cpu_seconds: time spent.
    """

    keep: list[np.ndarray]
    exact: int
    fuzzy: int
    cpu_seconds: float


def find_duplicates(files: Sequence[Signatures], keys: Sequence[str], config: DedupNode, pool: Pool) -> Duplicates:
    """Group the documents of all units by each row of their signatures, and keep the first of each cluster.

    Args:
        files: signatures of every unit, in plan order.
        keys: hashes of the units' results, for reuse.
        config: the plan's node.
        pool: runs one unit per signature row.
    """
    rows = [EXACT_ROW] * config.exact + [*range(1, 1 + config.bands)] * config.fuzzy
    count = sum(file.documents for file in files)
    units = [Unit("dedup", key_of("dedup", code_hash(), list(keys), row), 8 * count, f"signature row {row}", (list(files), row)) for row in rows]
    results = pool.run(_row_edges, units, label="dedup")
    edges = [np.load(pool.work.path("dedup", unit.key, ".npy")) for unit in units]
    first = clusters(count, edges)
    gone = first != np.arange(count)
    exact = np.zeros(count, bool)
    if config.exact:
        exact[edges[0][:, 0]] = True
    bounds = np.cumsum([0] + [file.documents for file in files])
    keep = [~gone[start:stop] for start, stop in itertools.pairwise(bounds)]
    return Duplicates(keep, int(exact.sum()), int((gone & ~exact).sum()), sum(result["cpu_seconds"] for result in results))


def _row_edges(arguments: tuple[list[Signatures], int], prefix: Path) -> dict[str, Any]:
    files, row = arguments
    edges = edges_of_row(files, row)
    with atomic_path(prefix.with_name(f"{prefix.name}.npy")) as temporary, open(temporary, "wb") as stream:
        np.save(stream, edges)
    return {"edges": len(edges)}
