"""SimpleQuestions: which questions count, which edge they teach, and each step's accuracy, worked out by hand."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.apps.graph import Simple, edges_between, read_questions, steps, training_examples, wikidata_rows
from rwtrain.apps.graph_answers import GraphAnswer, Subject
from rwtrain.knowledge.store import EntityStore


class Graph:
    """Entities 0 to 4; the first word of a question names its subject, the last the relation that is taken for asked."""

    edges = {0: {(0, True): [1], (1, True): [1, 2]}, 1: {(0, False): [0]}, 3: {(1, True): [4]}}
    store = SimpleNamespace(relation_count=2)

    def subjects(self, question: str) -> list[Subject]:
        return [Subject(0, 1, int(question[0]), 1.0), Subject(0, 1, 3, 0.5)]

    def relation_scores(self, question: str, subject: Subject) -> np.ndarray:
        return np.eye(4)[int(question[-1])]  # forward 0 and 1, backward 0 and 1

    def rank_objects(self, subject: int, relation: int, forward: bool, objects: list[int]) -> tuple[int, ...]:
        return tuple(sorted(objects))

    def answer(self, question: str, *, count: int) -> list[GraphAnswer]:
        subject = self.subjects(question)[0]
        scores = self.relation_scores(question, subject)
        edge = max(self.edges.get(subject.entity, {}), key=lambda each: scores[each[0] + 2 * (not each[1])], default=None)
        return [] if edge is None else [GraphAnswer(subject, *edge, self.rank_objects(subject.entity, *edge, self.edges[subject.entity][edge]), 1.0)]


def test_questions_with_both_ends_and_their_rows(tmp_path: Path, entity_store: Path) -> None:
    rows = [("Q1", "P1", "Q2", "who follows one?"), ("Q1", "P1", "Q99", "gone"), ("Q7", "R1", "Q6", 'whom does "seven" follow?')]
    with gzip.open(tmp_path / "questions.tsv.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.writelines("\t".join(row) + "\n" for row in rows)
    (tmp_path / "fb15k237").mkdir()
    with gzip.open(tmp_path / "fb15k237" / "entity2wikidata.json.gz", "wt", encoding="utf-8") as stream:
        json.dump({f"Q{number}": {"wikidata_id": f"Q{number}"} for number in (1, 2, 6, 7, 500)}, stream)
    known = wikidata_rows(tmp_path, EntityStore.open(entity_store))
    assert known == {"Q1": 1, "Q2": 2, "Q6": 6, "Q7": 7}
    assert read_questions(tmp_path / "questions.tsv.gz", known) == [
        Simple("who follows one?", 1, "P1", 2),
        Simple('whom does "seven" follow?', 7, "R1", 6),
    ]


def test_a_question_teaches_the_edge_that_its_property_has_most_often() -> None:
    graph: Any = Graph()
    questions = [Simple("0 a", 0, "P1", 1), Simple("0 b", 0, "P1", 2), Simple("3 c", 3, "P1", 4), Simple("1 d", 1, "P2", 0), Simple("2 e", 2, "P2", 0)]
    assert edges_between(graph, questions[0]) == [(0, True), (1, True)]
    examples, seen = training_examples(graph, questions)
    assert seen["P1"] == Counter({(1, True): 3, (0, True): 1})
    assert examples == [("this a", 0, 1, True), ("this b", 0, 1, True), ("this c", 3, 1, True), ("this d", 1, 0, False)]


def test_steps_by_hand() -> None:
    questions = [
        Simple("0 asks 1", 0, "P1", 1),  # all right
        Simple("0 asks 1", 0, "P1", 2),  # right, but 1 comes first
        Simple("0 asks 3", 3, "P1", 4),  # another subject is first; given the subject the only relation is taken
        Simple("0 asks 0", 0, "P1", 2),  # another relation
        Simple("2 asks 0", 2, "P2", 0),  # no edge, no answer
    ]
    seen = {"P1": Counter({(1, True): 3})}
    assert steps(Graph(), questions, seen) == pytest.approx(  # type: ignore[arg-type]
        {
            "joined by an edge of the store": 4 / 5,
            "subject linked (first)": 4 / 5,
            "subject among the first five": 5 / 5,
            "relation scored (subject given)": 3 / 4,
            "object returned first (subject, relation given)": 2 / 4,
            "full path": 1 / 5,
            "full path, object among the answers": 2 / 5,
        }
    )
