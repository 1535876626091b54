"""The recommendation benchmark's own baseline and controls, by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.apps.movielens import Task
from benchmarks.apps.recommend import markov, shuffled_entities
from rwtrain.apps.recommend.catalogue import Item


def test_markov_chain_counts_what_came_right_after_the_last() -> None:
    train = [np.array([0, 1, 2]), np.array([0, 1]), np.array([3, 3, 3])]
    scores = markov(Task(train, [], [(np.array([2, 0]), 1), (np.array([1]), 2), (np.array([2]), 0)], []), 4)
    assert scores.round().tolist() == [[0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert scores[2].argsort().tolist()[::-1][0] == 3  # nothing came after 2: the most popular


def test_shuffled_entities_keep_which_films_have_one() -> None:
    items = [Item(str(number), "", number if number % 2 else -1) for number in range(40)]
    found = shuffled_entities(items, 0)
    assert [item.entity >= 0 for item in found] == [item.entity >= 0 for item in items]
    assert sorted(item.entity for item in found) == sorted(item.entity for item in items)
    assert [item.entity for item in found] != [item.entity for item in items]
