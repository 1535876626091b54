"""Evaluate an entity linker on texts with gold mentions, restricted to the entities its store knows.

A gold file is JSON lines (plain or .gz): {"text": str, "labels": [{"span": [start, end], "entity_id": "Q…"}], "evaluation_span":
[start, end]}, the last one optional; labels with "coref": true are passed over. This is the format of the ELEVANT benchmarks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import DataError
from rwtrain.knowledge.import_tsv import read_lines
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import Rejects
from rwtrain.model.linking_refinedweb import EntityLinker, Spot

Span = tuple[int, int]


def read_gold(path: str | Path) -> Iterator[tuple[str, Span, dict[Span, str]]]:
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


def evaluate_linking(linker: EntityLinker, store: EntityStore, path: str | Path, *, left_context: bool = False) -> dict[str, Any]:
    """Link every text of a gold file and compare with its mentions of entities that the store knows.

    Returns:
        documents, mentions (gold, in the store); spotting_recall: share of them whose exact span has the entity among its candidates;
        disambiguation_accuracy: share of these whose best candidate is the entity; random_accuracy: the same for a random candidate;
        accuracy: share of all gold mentions whose best candidate is the entity; precision, recall, f1: of exact span and entity, end to end
        (a link where the gold has another entity or none counts against precision).

    Raises:
        DataError: the linker belongs to another store, or the file cannot be used or names no entity of the store.
    """
    if linker.store_hash != store.hash:
        raise DataError(linker.folder, "the linker was built for another entity store", "Build it again with `rwtrain kg linker`")
    counts = {"documents": 0, "mentions": 0, "spotted": 0, "right": 0, "random": 0.0, "links": 0, "true": 0}
    for text, (first, last), labels in read_gold(path):
        gold = {span: row for span, name in labels.items() if (row := _row(store, name)) is not None}
        spots = linker.explain(text, left_context=left_context)
        links = {(spot.start, spot.end): spot.candidates[0][0] for spot in spots if spot.linked and spot.start >= first and spot.end <= last}
        counts["documents"] += 1
        counts["mentions"] += len(gold)
        counts["links"] += len(links)
        counts["true"] += sum(gold.get(span) == row for span, row in links.items())
        _count_spans(counts, gold, spots)
    if not counts["mentions"]:
        raise DataError(path, "no gold mention is an entity of the store", "Import a graph whose entities have Wikidata ids, or give other texts")
    precision, recall = counts["true"] / max(1, counts["links"]), counts["true"] / counts["mentions"]
    return {
        "documents": counts["documents"],
        "mentions": counts["mentions"],
        "spotting_recall": counts["spotted"] / counts["mentions"],
        "disambiguation_accuracy": counts["right"] / max(1, counts["spotted"]),
        "random_accuracy": counts["random"] / max(1, counts["spotted"]),
        "accuracy": counts["right"] / counts["mentions"],
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, np.finfo(float).tiny),
    }


def _count_spans(counts: dict[str, Any], gold: dict[Span, int], spots: list[Spot]) -> None:
    candidates = {(spot.start, spot.end): [row for row, _ in spot.candidates] for spot in spots}
    for span, row in gold.items():
        found = candidates.get(span, [])
        if row in found:
            counts["spotted"] += 1
            counts["right"] += found[0] == row
            counts["random"] += 1 / len(found)


def _row(store: EntityStore, name: str) -> int | None:
    try:
        return store.row(name)
    except KeyError:
        return None
