"""SimpleQuestions over FB15k-237: each step of an answer from the graph by itself, and the full path."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwtrain.apps.graph_answers import SUBJECT, GraphAnswerer, Subject, learn_relations
from rwtrain.apps.model import AppModel
from rwtrain.knowledge.store import EntityStore

Edge = tuple[int, bool]  # (relation, whether the subject is the head)


@dataclass(frozen=True)
class Simple:
    """A question with its subject, its property in Wikidata ("R…" is reversed) and its object, as rows of the store."""

    text: str
    subject: int
    property: str
    object: int


def read_questions(path: Path, rows: dict[str, int]) -> list[Simple]:
    """Questions of a file of SimpleQuestions for Wikidata whose ends are both in the store."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        found = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Simple(text, rows[subject], name, rows[object_]) for subject, name, object_, text in found if subject in rows and object_ in rows]


def wikidata_rows(data: Path, store: EntityStore) -> dict[str, int]:
    """Wikidata's id → row of the store."""
    with gzip.open(data / "fb15k237" / "entity2wikidata.json.gz", "rt", encoding="utf-8") as stream:
        known = json.load(stream)
    rows = {store.external_id(row): row for row in range(len(store))}
    return {entry["wikidata_id"]: rows[name] for name, entry in known.items() if name in rows}


def graph_figures(app: AppModel, store_folder: Path, data: Path, relations: Path) -> dict:
    """Accuracy of each step and of the full path; the relation scorer learns from the training questions."""
    store = EntityStore.open(store_folder)
    rows, plain = wikidata_rows(data, store), GraphAnswerer(app, store)
    train, valid = (read_questions(data / "qa" / f"simplequestions_wd_{part}.tsv.gz", rows) for part in ("train", "valid"))
    examples, seen = training_examples(plain, train)
    fitted = learn_relations(app, store, examples, relations)
    answerer = GraphAnswerer(app, store, relations=relations)
    figures = {"training questions": len(examples), "relation found, of the questions learned from": fitted, "questions": len(valid)}
    for name, each in (("learned relations", answerer), ("relation's words", plain)):
        figures |= {f"{name}: {key}": value for key, value in steps(each, valid, seen).items()}
    return figures


def training_examples(answerer: GraphAnswerer, questions: Sequence[Simple]) -> tuple[list[tuple[str, int, int, bool]], dict[str, Counter[Edge]]]:
    """Questions with the edge that joins their ends: of several, the one that their property has most often. And the edges of each property."""
    joined = [(question, edges_between(answerer, question)) for question in questions]
    seen: dict[str, Counter[Edge]] = {}
    for question, edges in joined:
        seen.setdefault(question.property, Counter()).update(edges)
    examples = []
    for question, edges in joined:
        subject = next((found for found in answerer.subjects(question.text) if found.entity == question.subject), None)
        if edges and subject is not None:
            relation, forward = max(sorted(edges), key=lambda edge: seen[question.property][edge])
            examples.append((question.text[: subject.start] + SUBJECT + question.text[subject.end :], question.subject, relation, forward))
    return examples, seen


def edges_between(answerer: GraphAnswerer, question: Simple) -> list[Edge]:
    """Edges of the graph from subject to object."""
    return [edge for edge, objects in answerer.edges.get(question.subject, {}).items() if question.object in objects]


def steps(answerer: GraphAnswerer, questions: Sequence[Simple], seen: dict[str, Counter[Edge]]) -> dict[str, float]:
    """Each step with the steps before it given; the full path with nothing given."""
    first, among, relation, object_, full, full_any, reachable = ([] for _ in range(7))
    for question in questions:
        edges = edges_between(answerer, question)
        reachable.append(bool(edges))
        subjects = answerer.subjects(question.text)
        first.append(bool(subjects) and subjects[0].entity == question.subject)
        among.append(any(subject.entity == question.subject for subject in subjects[:5]))
        best = answerer.answer(question.text, count=1)
        full.append(bool(best) and best[0].subject.entity == question.subject and best[0].objects[0] == question.object)
        full_any.append(bool(best) and question.object in best[0].objects)
        if edges:
            given = next((found for found in subjects if found.entity == question.subject), Subject(0, 0, question.subject, 1.0))
            relation.append(_best_edge(answerer, question, given) in edges)
            right = max(sorted(edges), key=lambda edge: seen.get(question.property, Counter())[edge])
            objects = answerer.edges[question.subject][right]
            object_.append(answerer.rank_objects(question.subject, *right, objects)[0] == question.object)
    steps = {"subject linked (first)": first, "subject among the first five": among, "relation scored (subject given)": relation}
    steps |= {"object returned first (subject, relation given)": object_, "full path": full, "full path, object among the answers": full_any}
    return {"joined by an edge of the store": float(np.mean(reachable))} | {name: float(np.mean(values)) for name, values in steps.items()}


def _best_edge(answerer: GraphAnswerer, question: Simple, subject: Subject) -> Edge:
    scores = answerer.relation_scores(question.text, subject)
    return max(answerer.edges[question.subject], key=lambda edge: scores[edge[0] + (0 if edge[1] else answerer.store.relation_count)])
