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
from urllib.parse import unquote

from rwtrain.errors import DataError
from rwtrain.knowledge.importing import import_sources
from rwtrain.knowledge.parts import ALIAS, DESCRIPTION, LABEL, TITLE, TYPE, Part
from rwtrain.knowledge.reading import UNIT_BYTES, Source, decoded_lines
from rwtrain.knowledge.store import normal_title

STATEMENT = re.compile(
    r'\s*(<[^<>"{}|^`\\\x00-\x20]+>|_:\S+)\s+<([^<>"{}|^`\\\x00-\x20]+)>\s+'
    r'(?:<([^<>"{}|^`\\\x00-\x20]+)>|(_:\S+)|"((?:[^"\\]|\\.)*)"(?:@([A-Za-z0-9-]+)|\^\^<[^>]+>)?)\s*\.\s*(?:#.*)?$'
)
ESCAPE = re.compile(r"\\(?:([tbnrf\"'\\])|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
WIKIDATA = ("http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/")
RDFS, SKOS, SCHEMA = "http://www.w3.org/2000/01/rdf-schema#", "http://www.w3.org/2004/02/skos/core#", "http://schema.org/"
KINDS = {
    f"{RDFS}label": LABEL,
    f"{SKOS}prefLabel": LABEL,
    f"{SCHEMA}name": LABEL,
    f"{SKOS}altLabel": ALIAS,
    f"{SCHEMA}description": DESCRIPTION,
    f"{RDFS}comment": DESCRIPTION,
}
TYPES = {"P31", "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"}
ABOUT, SAME_AS = f"{SCHEMA}about", "http://www.w3.org/2002/07/owl#sameAs"
PAGE = re.compile(r"https?://([a-z-]+)\.wikipedia\.org/wiki/(.+)")


def import_ntriples(
    source: str | Path,
    out: str | Path,
    *,
    languages: Sequence[str] = ("en",),
    workers: int | None = None,
    unit_bytes: int = UNIT_BYTES,
    quiet: bool = True,
) -> dict[str, Any]:
    """Import an N-Triples file (plain, .gz or .bz2) into the store `out`; return the store's manifest.

    Of Wikidata's RDF dumps, instance-of statements also become types, owl:sameAs statements redirects, and pages that are about an entity titles.

    Args:
        source: the file.
        out: the store to write.
        languages: languages of names to keep, the preferred one first; a literal without a language counts as the first one.
        workers, unit_bytes, quiet: see `import_sources`.

    Raises:
        DataError: the file is unreadable, truncated or corrupt, or holds no triple between two IRIs.
    """
    source = Path(source)
    if not source.is_file():
        raise DataError(source, "no such file", "Give an N-Triples file")
    chosen = tuple(dict.fromkeys(language.lower() for language in languages))
    return import_sources(
        [Source(source, parse_statements, chosen, label="train")],
        Path(out),
        provenance={"importer": "ntriples"},
        languages=chosen,
        nothing="no statement links two entities",
        workers=workers,
        unit_bytes=unit_bytes,
        quiet=quiet,
    )


def parse_statements(text: bytes, part: Part, languages: tuple[str, ...]) -> None:
    """Add the statements of some lines to a part."""
    places = {language: place for place, language in enumerate(languages)} | {"": 0}
    for number, line in decoded_lines(text, part):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        statement = STATEMENT.match(line)
        if statement is None:
            part.reject(number, "not an N-Triples statement", line)
            continue
        subject, predicate, target, _, literal, language = statement.groups()
        if subject.startswith("_:"):
            continue
        if target is not None:
            _add_link(part, subject[1:-1], predicate, target, number)
        elif literal and predicate in KINDS and (place := places.get((language or "").lower(), -1)) >= 0:
            part.fact(part.number(_short(subject[1:-1])), KINDS[predicate], " ".join(_unescape(literal).split()), place)


def _add_link(part: Part, subject: str, predicate: str, target: str, line: int) -> None:
    if predicate == ABOUT and (page := PAGE.fullmatch(subject)):
        part.fact(part.number(_short(target)), TITLE, f"{page[1].replace('-', '_')}wiki:{normal_title(unquote(page[2]))}")
        return
    if predicate == SAME_AS and subject.startswith(WIKIDATA[0]) and target.startswith(WIKIDATA[0]):
        part.redirects.append((_short(subject), _short(target)))
        return
    head, relation, tail = part.mention(_short(subject)), _short(predicate), part.mention(_short(target))
    if relation in TYPES:
        part.fact(head, TYPE, _short(target))
    part.link(head, relation, tail, line)


def _short(iri: str) -> str:
    return next((iri[len(prefix) :] for prefix in WIKIDATA if iri.startswith(prefix)), iri)


def _unescape(literal: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = int(found[2] or found[3], 16) if not found[1] else 0
        return ESCAPED[found[1]] if found[1] else chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"

    return ESCAPE.sub(character, literal)
