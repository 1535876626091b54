"""Which of a batch's shared negatives are no negatives: for each query, those that make a training triple."""

from __future__ import annotations

import numpy as np


class KnownNegatives:
    """Finds the true answers among shared negatives, from the negatives' side: the triples of a few hundred entities are few, while
    the answers of one popular query (every person for "male") can be many.

    Args:
        triples: [triples, 3] int rows (head, relation, tail) of the training split.
        entities: number of entity rows.
        relations: number of relation rows.
    """

    def __init__(self, triples: np.ndarray, *, entities: int, relations: int) -> None:
        self.relations = relations
        heads, relation, tails = (triples[:, column] for column in range(3))
        self._asked_for = [self._by_answer(heads, relation, tails, entities), self._by_answer(tails, relation, heads, entities)]

    def _by_answer(self, given: np.ndarray, relation: np.ndarray, answer: np.ndarray, entities: int) -> tuple[np.ndarray, np.ndarray]:
        """Query keys sorted by their answer, and where each entity's begin, [entities + 1]."""
        order = np.argsort(answer, kind="stable")
        starts = np.zeros(entities + 1, np.int64)
        np.cumsum(np.bincount(answer, minlength=entities), out=starts[1:])
        return given[order].astype(np.int64) * self.relations + relation[order], starts

    def pairs(self, batch_B3: np.ndarray, negatives_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(query, place among the negatives) of every negative that makes a training triple; queries in ascending order.

        Args:
            batch_B3: int64 triples; queries 0 … B-1 ask for their tails, B … 2B-1 for their heads.
            negatives_K: int64 entity rows.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for number, given in enumerate((batch_B3[:, 0], batch_B3[:, 2])):
            keys, starts = self._asked_for[number]
            places, rows = expand(starts[negatives_K], starts[negatives_K + 1])
            asked = given * self.relations + batch_B3[:, 1]
            order = np.argsort(asked, kind="stable")
            known = keys[rows]
            first, last = (np.searchsorted(asked[order], known, side) for side in ("left", "right"))
            triple, position = expand(first, last)
            found.append((order[position] + number * len(batch_B3), places[triple]))
        query, place = (np.concatenate(parts) for parts in zip(*found, strict=True))
        by_query = np.argsort(query, kind="stable")
        return query[by_query], place[by_query]


def own_answers(batch_B3: np.ndarray, negatives_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `KnownNegatives.pairs`, for each query's own answer alone; the negatives ascending, none twice."""
    answers = np.concatenate([batch_B3[:, 2], batch_B3[:, 0]])
    place = np.minimum(np.searchsorted(negatives_K, answers), len(negatives_K) - 1)
    query = np.flatnonzero(negatives_K[place] == answers)
    return query, place[query]


def expand(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All integers of the ranges [first, last), one range after the other: (number of the range, integer)."""
    counts = last - first
    return np.repeat(np.arange(len(first)), counts), np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
