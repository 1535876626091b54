"""Answers from a small graph whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwtrain.apps.graph_answers import SUBJECT, GraphAnswerer, learn_relations
from rwtrain.apps.model import AppModel
from rwtrain.errors import DataError
from rwtrain.knowledge.store import EntityStore

FORWARD, BACKWARD = "What comes after {}?", "Which one stands before {} in line?"


@pytest.fixture(scope="module")
def relations(app: AppModel, entity_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("relations") / "relations.safetensors"
    questions = [(text.format(SUBJECT), 0, 0, text == FORWARD) for text in (FORWARD, BACKWARD) for _ in range(3)]
    assert learn_relations(app, EntityStore.open(entity_store), questions, out) == 1.0
    return out


def test_objects_of_the_graph_answer(app: AppModel, entity_store: Path, relations: Path) -> None:
    answerer = GraphAnswerer(app, EntityStore.open(entity_store), relations=relations)
    for text, expected in ((FORWARD, "entity 8"), (BACKWARD, "entity 6")):
        best = answerer.answer(text.format("entity 7"))[0]
        assert answerer.store.label(best.subject.entity) == "entity 7"
        assert [answerer.store.label(row) for row in best.objects] == [expected]
    assert answerer.answer("What is the time?") == []


def test_without_a_map_the_relation_words_are_compared(app: AppModel, entity_store: Path) -> None:
    found = GraphAnswerer(app, EntityStore.open(entity_store)).answer("What is next to entity 4?")
    assert {found[0].objects, found[1].objects} == {(3,), (5,)}


def test_map_of_another_model_is_refused(app: AppModel, entity_store: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="answer relations"):
        GraphAnswerer(app, EntityStore.open(entity_store), relations=tmp_path / "map")
