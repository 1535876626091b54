"""From signatures on disk to the documents that have to go, in memory that does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

# Values looked at together; a band with more is cut into ranges of hash values that fit.
VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Signatures:
    """Signatures of one unit's documents: a memory-mapped [1 + bands, documents] uint64 file; row 0 is the exact hash."""

    path: str
    documents: int


def edges_of_row(files: Sequence[Signatures], row: int) -> np.ndarray:
    """Pairs (document, first document with the same value in this row), [edges, 2] int64, in ascending order of documents.

    Documents are numbered through all files.
    """
    total = sum(file.documents for file in files)
    ranges = max(1, -(-total // VALUES_AT_ONCE))
    parts = [_edges_in_range(files, row, number, ranges) for number in range(ranges)]
    edges = np.concatenate(parts)
    return edges[np.argsort(edges[:, 0], kind="stable")]


def _edges_in_range(files: Sequence[Signatures], row: int, number: int, ranges: int) -> np.ndarray:
    width = (1 << 64) // ranges
    low, high = np.uint64(number * width), np.uint64((number + 1) * width - 1 if number + 1 < ranges else (1 << 64) - 1)
    values, documents, base = [], [], 0
    for file in files:
        if file.documents:
            column = np.load(file.path, mmap_mode="r")[row]
            chosen = np.flatnonzero((column >= low) & (column <= high))
            values.append(column[chosen])
            documents.append(chosen + base)
        base += file.documents
    if not sum(map(len, values)):
        return np.zeros((0, 2), np.int64)
    value, document = np.concatenate(values), np.concatenate(documents)
    order = np.argsort(value, kind="stable")  # documents stay ascending within equal values
    value, document = value[order], document[order]
    is_first = np.r_[True, value[1:] != value[:-1]]
    first = document[np.maximum.accumulate(np.where(is_first, np.arange(len(value)), 0))]
    return np.stack([document[~is_first], first[~is_first]], axis=1)


def clusters(count: int, edge_lists: Sequence[np.ndarray]) -> np.ndarray:
    """The lowest-numbered member of each document's cluster, [count] int64."""
    parent = np.arange(count, dtype=np.int64)
    for edges in edge_lists:
        _join(parent, edges)
    _flatten(parent)
    return parent


@njit(cache=True, nogil=True)
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _join(parent, edges):
    for index in range(edges.shape[0]):
        one = _root(parent, edges[index, 0])
        other = _root(parent, edges[index, 1])
        if one < other:
            parent[other] = one
        elif other < one:
            parent[one] = other


@njit(cache=True, nogil=True)
def _flatten(parent):
    for node in range(parent.size):
        parent[node] = _root(parent, node)
