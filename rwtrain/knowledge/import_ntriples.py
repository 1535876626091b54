"""Import a graph from N-Triples (.nt, also .gz and .bz2), read as a stream; ids and names are held in memory.

Statements between two IRIs become triples, all in the training split. Labels (rdfs:label, skos:prefLabel, schema:name), aliases
(skos:altLabel) and descriptions (schema:description, rdfs:comment) in the chosen languages become names. Other literals and blank
nodes are passed over. IRIs of Wikidata are shortened to their ids ("Q90", "P31").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.errors import DataError
from rwtrain.files import content_hash
from rwtrain.knowledge.import_tsv import read_lines
from rwtrain.knowledge.writing import BATCH_ROWS, Rejects, entity_batch, write_store

STATEMENT = re.compile(
    r'\s*(<[^<>"{}|^`\\\x00-\x20]+>|_:\S+)\s+<([^<>"{}|^`\\\x00-\x20]+)>\s+'
    r'(?:<([^<>"{}|^`\\\x00-\x20]+)>|(_:\S+)|"((?:[^"\\]|\\.)*)"(?:@([A-Za-z0-9-]+)|\^\^<[^>]+>)?)\s*\.\s*(?:#.*)?$'
)
ESCAPE = re.compile(r"\\(?:([tbnrf\"'\\])|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
WIKIDATA = ("http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/")
LABELS = {"http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#prefLabel", "http://schema.org/name"}
ALIASES = {"http://www.w3.org/2004/02/skos/core#altLabel"}
DESCRIPTIONS = {"http://schema.org/description", "http://www.w3.org/2000/01/rdf-schema#comment"}


class _Graph:
    """What has been read so far; the first language of the list that has a label gives it, labels of the others become aliases."""

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = {language: place for place, language in enumerate(languages)}
        self.entities: dict[str, int] = {}
        self.relations: dict[str, int] = {}
        self.triples: dict[tuple[int, int, int], None] = {}
        self.labels: dict[str, dict[int, str]] = {}
        self.aliases: dict[str, dict[str, None]] = {}
        self.descriptions: dict[str, dict[int, str]] = {}

    def add_link(self, head: str, relation: str, tail: str) -> bool:
        """Keep a triple; False if it was there."""
        first, last = (self.entities.setdefault(name, len(self.entities)) for name in (head, tail))
        triple = (first, self.relations.setdefault(relation, len(self.relations)), last)
        new = triple not in self.triples
        self.triples[triple] = None
        return new

    def add_name(self, name: str, predicate: str, text: str, language: str) -> None:
        """Keep a label, alias or description in one of the languages; a literal without a language counts as the first one."""
        place = self.languages.get(language.lower(), -1) if language else 0
        if place < 0 or not text:
            return
        if predicate in LABELS:
            self.labels.setdefault(name, {}).setdefault(place, text)
        elif predicate in ALIASES:
            self.aliases.setdefault(name, {})[text] = None
        elif predicate in DESCRIPTIONS:
            self.descriptions.setdefault(name, {}).setdefault(place, text)

    def label(self, name: str) -> str:
        labels = self.labels.get(name)
        return labels[min(labels)] if labels else ""

    def entity(self, name: str) -> dict[str, Any]:
        label = self.label(name)
        others = dict.fromkeys([*(text for _, text in sorted(self.labels.get(name, {}).items())), *self.aliases.get(name, {})])
        descriptions = self.descriptions.get(name)
        return {
            "id": name,
            "wikidata_id": name if re.fullmatch(r"Q\d+", name) else "",
            "label": label,
            "description": descriptions[min(descriptions)] if descriptions else "",
            "aliases": [text for text in others if text != label],
        }


def import_ntriples(source: str | Path, out: str | Path, *, languages: Sequence[str] = ("en",)) -> dict[str, Any]:
    """Import an N-Triples file into the store `out`; return the store's manifest.

    Args:
        source: the file.
        out: the store to write.
        languages: languages of names to keep, the preferred one first.

    Raises:
        DataError: the file is unreadable, or holds no triple between two IRIs.
    """
    source, rejects, graph = Path(source), Rejects(), _Graph([language.lower() for language in languages])
    for number, line in read_lines(source, rejects):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        statement = STATEMENT.match(line)
        if statement is None:
            rejects.add(source.name, number, "not an N-Triples statement", line)
            continue
        subject, predicate, target, _, literal, language = statement.groups()
        if subject.startswith("_:"):
            continue
        if target is not None:
            if not graph.add_link(_short(subject[1:-1]), _short(predicate), _short(target)):
                rejects.add(source.name, number, "repeated triple", line)
        elif literal is not None:
            graph.add_name(_short(subject[1:-1]), predicate, _unescape(literal), language or "")
    if not graph.triples:
        raise DataError(source, "no statement links two entities", "Give an N-Triples file with <subject> <predicate> <object> . lines")
    ids = list(graph.entities)
    batches = (entity_batch([graph.entity(name) for name in ids[start : start + BATCH_ROWS]]) for start in range(0, len(ids), BATCH_ROWS))
    provenance = {"importer": "ntriples", "languages": list(languages), "sources": [{"file": source.name, "hash": content_hash(source)}]}
    relations = [(name, graph.label(name)) for name in graph.relations]
    triples = {"train": np.array(list(graph.triples), np.int32).reshape(-1, 3)}
    return write_store(out, entities=batches, relations=relations, triples=triples, rejects=rejects, provenance=provenance)


def _short(iri: str) -> str:
    return next((iri[len(prefix) :] for prefix in WIKIDATA if iri.startswith(prefix)), iri)


def _unescape(literal: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = int(found[2] or found[3], 16) if not found[1] else 0
        return ESCAPED[found[1]] if found[1] else chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"

    return ESCAPE.sub(character, literal)
