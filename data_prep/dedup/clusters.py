"""Clusters of duplicates: connected components of the graph whose edges are equal hashes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

MEMBERS_SHOWN = 4


class Clusters:
    """Connected components of `count` documents.

    The only table that grows with the corpus: 4 bytes a document up to 2^31 documents, 8 beyond. Of the first member of a
    cluster it holds minus the cluster's size, of any other the number of an earlier member.
    """

    def __init__(self, count: int, edge_lists: Iterable[np.ndarray]) -> None:
        self._parent: np.ndarray = np.full(count, -1, np.int32 if count < 1 << 31 else np.int64)
        for edges in edge_lists:
            _join(self._parent, edges)
        _flatten(self._parent)

    @property
    def keep(self) -> np.ndarray:
        """Whether each document is the first of its cluster, [count] bool."""
        return self._parent < 0

    def first(self) -> np.ndarray:
        """The first member of each document's cluster, [count] int64."""
        return np.where(self._parent < 0, np.arange(len(self._parent)), self._parent)

    def sizes(self) -> list[tuple[int, int]]:
        """(Largest size of the bin, clusters in it) for sizes 2, 3–4, 5–8, 9–16, …; documents without a duplicate are left out."""
        counts = _size_bins(self._parent)
        return [(1 << number, int(count)) for number, count in enumerate(counts) if count and number > 0]

    def examples(self, *, largest: int, pairs: int) -> list[tuple[int, list[int]]]:
        """(Size, first members) of the largest clusters and of the first clusters of two, ascending within a cluster."""
        if not len(self._parent):
            return []
        order = _largest(self._parent, largest)
        roots = [int(root) for root in order if root >= 0]
        roots += [int(root) for root in _of_size_two(self._parent, pairs + len(roots)) if root >= 0 and root not in roots][:pairs]
        members = _members(self._parent, np.array(roots, np.int64), MEMBERS_SHOWN)
        return [(int(-self._parent[root]), [int(member) for member in row if member >= 0]) for root, row in zip(roots, members, strict=True)]


@njit(cache=True, nogil=True)
def _root(parent, node):
    root = node
    while parent[root] >= 0:
        root = parent[root]
    while parent[node] >= 0:
        after = parent[node]
        if after != root:
            parent[node] = root
        node = after
    return root


@njit(cache=True, nogil=True)
def _join(parent, edges):
    for index in range(edges.shape[0]):
        one = _root(parent, edges[index, 0])
        other = _root(parent, edges[index, 1])
        if one != other:
            low, high = min(one, other), max(one, other)
            parent[low] += parent[high]
            parent[high] = low


@njit(cache=True, nogil=True)
def _flatten(parent):
    for node in range(parent.size):
        _root(parent, node)


@njit(cache=True, nogil=True)
def _size_bins(parent):
    counts = np.zeros(64, np.int64)
    for node in range(parent.size):
        if parent[node] < -1:
            number = 0
            while (1 << number) < -parent[node]:
                number += 1
            counts[number] += 1
    return counts


@njit(cache=True, nogil=True)
def _largest(parent, count):
    """Roots of the largest clusters, the earlier of two equal ones first; -1 where there are fewer."""
    best = np.full(count, -1, np.int64)
    for node in range(parent.size):
        if parent[node] >= -1:
            continue
        moving = np.int64(node)
        for place in range(count):
            if best[place] < 0 or parent[moving] < parent[best[place]]:
                best[place], moving = moving, best[place]
                if moving < 0:
                    break
    return best


@njit(cache=True, nogil=True)
def _of_size_two(parent, count):
    found = np.full(count, -1, np.int64)
    filled = 0
    for node in range(parent.size):
        if filled == count:
            break
        if parent[node] == -2:
            found[filled] = node
            filled += 1
    return found


@njit(cache=True, nogil=True)
def _members(parent, roots, limit):
    """The first members of each cluster, [roots, limit] int64, -1 where there are fewer."""
    members = np.full((roots.size, limit), -1, np.int64)
    filled = np.zeros(roots.size, np.int64)
    for node in range(parent.size):
        for number in range(roots.size):
            if (node == roots[number] or parent[node] == roots[number]) and filled[number] < limit:
                members[number, filled[number]] = node
                filled[number] += 1
    return members
