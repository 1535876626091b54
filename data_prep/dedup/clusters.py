"""Clusters of duplicates: connected components of the graph whose edges are equal hashes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit


def clusters(count: int, edge_lists: Iterable[np.ndarray]) -> np.ndarray:
    """The lowest-numbered member of each document's cluster, [count] int64; this is the one table that grows with the corpus, 8 bytes a document."""
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
