"""Evaluate an entity linker on texts with gold mentions, restricted to the entities its store knows.

A gold file is JSON lines (plain or .gz): {"text": str, "labels": [{"span": [start, end], "entity_id": "Q…"}], "evaluation_span":
[start, end]}, the last one optional; labels with "coref": true are passed over. This is the format of the ELEVANT benchmarks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import DataError
from rwtrain.knowledge.import_tsv import read_lines
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import Rejects
from rwtrain.model.linking_refinedweb import EntityLinker

Span = tuple[int, int]
Document = tuple[str, Span, dict[Span, str]]


def read_gold(path: str | Path) -> Iterator[Document]:
    """(text, evaluated span, gold entity id by span) of each document.

    Raises:
        DataError: the file is unreadable, a line is not UTF-8, or a record is not in the format.
    """
    rejects = Rejects()
    for number, line in read_lines(Path(path), rejects):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"]
            first, last = record.get("evaluation_span") or (0, len(text))
            gold = {(int(label["span"][0]), int(label["span"][1])): str(label["entity_id"]) for label in record["labels"] if not label.get("coref")}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            problem = f"not a document with gold mentions ({type(error).__name__}: {error})"
            raise DataError(path, problem, 'Write {"text": …, "labels": [{"span": [start, end], "entity_id": …}]} on each line', record=number) from error
        yield text, (int(first), int(last)), gold
    if rejects.kept:
        raise DataError(path, "the line is not UTF-8", "Write the file in UTF-8", record=rejects.kept[0]["record"])


def rows_of(store: EntityStore, labels: dict[Span, str]) -> dict[Span, int]:
    """Gold mentions of entities that the store knows: row by span."""
    rows = {}
    for span, name in labels.items():
        try:
            rows[span] = store.row(name)
        except KeyError:
            continue
    return rows


def evaluate_linking(linker: EntityLinker, store: EntityStore, path: str | Path, *, left_context: bool = False) -> dict[str, Any]:
    """Link every text of a gold file and compare with its mentions of entities that the store knows; figures as of `evaluate_documents`.

    Raises:
        DataError: the linker belongs to another store, or the file cannot be used or names no entity of the store.
    """
    if linker.store_hash != store.hash:
        raise DataError(linker.folder, "the linker was built for another entity store", "Build it again with `rwtrain kg linker`")
    figures = evaluate_documents(linker, store, read_gold(path), left_context=left_context)
    if not figures["mentions"]:
        raise DataError(path, "no gold mention is an entity of the store", "Import a graph whose entities have Wikidata ids, or give other texts")
    return figures


def evaluate_documents(linker: EntityLinker, store: EntityStore, documents: Iterable[Document], *, left_context: bool = False) -> dict[str, Any]:
    """Link texts and compare with their gold mentions of entities that the store knows.

    Returns:
        documents, mentions (gold, in the store); spotting_recall: share of them whose exact span was found with the entity among its candidates;
        disambiguation_accuracy: of the gold spans, given, whose entity is among their candidates, the share whose best candidate it is;
        prior_accuracy, random_accuracy: the same for the candidate with the highest prior, and for a random one; candidate_recall: share of gold
        spans, given, with the entity among the candidates; accuracy: share of all gold spans, given, whose best candidate is the entity;
        precision, recall, f1: of exact span and entity, end to end (a link where the gold has another entity or none counts against precision).
    """
    counts = dict.fromkeys(("documents", "mentions", "spotted", "known", "right", "prior", "random", "links", "true"), 0.0)
    for text, (first, last), labels in documents:
        gold = rows_of(store, labels)
        spots = {(spot.start, spot.end): spot for spot in linker.explain(text, left_context=left_context)}
        links = {span: spot.candidates[0][0] for span, spot in spots.items() if spot.linked and span[0] >= first and span[1] <= last}
        counts["documents"] += 1
        counts["mentions"] += len(gold)
        counts["links"] += len(links)
        counts["true"] += sum(gold.get(span) == row for span, row in links.items())
        counts["spotted"] += sum(span in spots and row in dict(spots[span].candidates) for span, row in gold.items())
        for row, candidates in zip(gold.values(), linker.score_spans(text, list(gold), left_context=left_context), strict=True):
            rows = [candidate.entity for candidate in candidates]
            if row in rows:
                counts["known"] += 1
                counts["right"] += rows[0] == row
                counts["prior"] += max(candidates, key=lambda candidate: candidate.prior).entity == row
                counts["random"] += 1 / len(rows)
    mentions, known = max(1.0, counts["mentions"]), max(1.0, counts["known"])
    precision, recall = counts["true"] / max(1.0, counts["links"]), counts["true"] / mentions
    return {
        "documents": int(counts["documents"]),
        "mentions": int(counts["mentions"]),
        "spotting_recall": counts["spotted"] / mentions,
        "disambiguation_accuracy": counts["right"] / known,
        "prior_accuracy": counts["prior"] / known,
        "random_accuracy": counts["random"] / known,
        "candidate_recall": counts["known"] / mentions,
        "accuracy": counts["right"] / mentions,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, np.finfo(float).tiny),
    }
