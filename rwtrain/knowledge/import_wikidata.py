"""Import a Wikidata JSON dump: one entity a line, inside the brackets of one array (https://www.wikidata.org/wiki/Help:JSON_dump).

Items become entities, properties name relations, statements whose value is an item become triples. Of a property's statements those with
the best rank count, as in Wikidata's "truthy" exports: preferred ones if there are any, else normal ones, deprecated ones never.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwtrain.errors import DataError, RWTrainError
from rwtrain.knowledge.importing import import_sources
from rwtrain.knowledge.parts import ALIAS, DESCRIPTION, LABEL, SITELINKS, TITLE, TYPE, Part
from rwtrain.knowledge.reading import OPENERS, UNIT_BYTES, Source, decoded_lines

KEEP = {
    "named": "items with a label in one of the languages",
    "wikipedia": "items with a page in one of the languages' Wikipedias",
    "all": "all items",
}
INSTANCE_OF = "P31"
EVERY_LANGUAGE = "mul"


@dataclass(frozen=True)
class Choice:
    """What to keep of a dump: languages in order of preference, and a key of `KEEP`."""

    languages: tuple[str, ...]
    keep: str


def import_wikidata(
    source: str | Path,
    out: str | Path,
    *,
    languages: Sequence[str] = ("en",),
    keep: str = "named",
    workers: int | None = None,
    unit_bytes: int = UNIT_BYTES,
    quiet: bool = True,
) -> dict[str, Any]:
    """Import a dump (plain, .gz or .bz2) into the store `out`; return the store's manifest.

    Args:
        source: the dump.
        out: the store to write.
        languages: languages of names, descriptions and Wikipedias to keep, the preferred one first; variants (zh-hant, en-gb) count as their language,
            and labels "for all languages" (mul) as the first one.
        keep: which items become entities, a key of `KEEP`.
        workers, unit_bytes, quiet: see `import_sources`.

    Raises:
        DataError: the dump is unreadable, truncated, corrupt or holds no such item.
        RWTrainError: `keep` is unknown.
    """
    source = Path(source)
    if keep not in KEEP:
        raise RWTrainError(f"--keep {keep}: choose one of {', '.join(KEEP)}.")
    if not source.is_file():
        raise DataError(source, "no such file", "Give a Wikidata JSON dump, for example latest-all.json.gz")
    _check_end(source)
    chosen = tuple(dict.fromkeys(language.lower() for language in languages))
    return import_sources(
        [Source(source, parse_dump, Choice(chosen, keep), label="train")],
        Path(out),
        provenance={"importer": "wikidata", "keep": keep},
        languages=chosen,
        count_sitelinks=True,
        nothing=f"no item to import (--keep {keep}: {KEEP[keep]}, {', '.join(chosen)})",
        workers=workers,
        unit_bytes=unit_bytes,
        quiet=quiet,
    )


def _check_end(path: Path) -> None:
    """Refuse a plain dump whose array is not closed; compressed ones tell by themselves."""
    if path.suffix in OPENERS:
        return
    with open(path, "rb") as stream:
        opened = stream.read(1) == b"["
        stream.seek(max(0, path.stat().st_size - 64))
        if opened and not stream.read().rstrip().endswith(b"]"):
            raise DataError(path, "the array of entities is not closed", "The file is truncated: copy it again")


def parse_dump(text: bytes, part: Part, choice: Choice) -> None:
    """Add the entities of some lines of a dump to a part."""
    reader = _Reader(part, choice)
    for number, line in decoded_lines(text, part):
        line = line.strip().rstrip(",")
        if line in ("", "[", "]"):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            part.reject(number, "not JSON", line[:500])
            continue
        try:
            reader.read(record, number)
        except (KeyError, TypeError, AttributeError, ValueError, UnicodeEncodeError) as error:
            part.reject(number, f"not a Wikidata entity ({type(error).__name__})", line[:500])


class _Reader:
    def __init__(self, part: Part, choice: Choice) -> None:
        self.part, self.choice = part, choice
        self.place = {language: number for number, language in enumerate(choice.languages)}
        self.wikis = {f"{language.replace('-', '_')}wiki" for language in choice.languages}

    def read(self, record: dict[str, Any], line: int) -> None:
        """Add one record; it is read whole before anything of it is added, so that a broken one leaves nothing behind."""
        if "redirect" in record:
            self.part.redirects.append((_id(record["entity"]), _id(record["redirect"])))
            return
        name, kind = _id(record["id"]), record["type"]
        if kind not in ("item", "property"):
            self.part.dropped[f"record of type {str(kind)[:40]}"] += 1
            return
        labels = self._texts(record.get("labels"))
        if kind == "property":
            relation = self.part.number(name)
            for place, text, _ in labels:
                self.part.fact(relation, LABEL, text, place)
            return
        aliases = self._texts(record.get("aliases"))
        descriptions = self._texts(record.get("descriptions"))
        sitelinks = dict(record.get("sitelinks") or {})
        titles = [(wiki, _text(link["title"])) for wiki, link in sitelinks.items() if wiki in self.wikis]
        statements = [(relation, target) for relation, claims in dict(record.get("claims") or {}).items() for target in _targets(claims)]
        if (self.choice.keep == "named" and not labels) or (self.choice.keep == "wikipedia" and not titles):
            self.part.dropped[f"item that --keep {self.choice.keep} leaves out"] += 1
            return
        number = self.part.define(name, line)
        if number is None:
            self.part.reject(line, "repeated entity", name)
            return
        self._add(number, line, labels, aliases, descriptions, titles, statements, len(sitelinks))

    def _add(self, number: int, line: int, labels: Any, aliases: Any, descriptions: Any, titles: Any, statements: Any, sitelinks: int) -> None:
        fact = self.part.fact
        named: set[int] = set()
        for place, text, _ in labels:
            fact(number, ALIAS if place in named else LABEL, text, place)  # a variant's label (zh-hant) beside the language's own
            named.add(place)
        for place, text, _ in aliases:
            fact(number, ALIAS, text, place)
        for place, text, _ in descriptions[:1]:
            fact(number, DESCRIPTION, text, place)
        fact(number, SITELINKS, str(sitelinks))
        for wiki, title in sorted(titles):
            fact(number, TITLE, f"{wiki}:{title}")
        for relation, target in dict.fromkeys(statements):
            if relation == INSTANCE_OF:
                fact(number, TYPE, target)
            self.part.link(number, relation, self.part.number(target), line)

    def _place_of(self, code: str) -> int:
        return self.place.get(code, self.place.get(code.partition("-")[0], -1))

    def _texts(self, by_language: Any) -> list[tuple[int, str, str]]:
        """(place of the language, text, language code) in the chosen languages; the language itself stands before its variants."""
        found = []
        code: str
        for code, entries in dict(by_language or {}).items():  # an empty map is written as [] in some dumps
            place = 0 if code == EVERY_LANGUAGE else self._place_of(code)
            if place >= 0:
                found += [(place, _text(entry["value"]), code) for entry in (entries if isinstance(entries, list) else [entries])]
        chosen = self.choice.languages
        return sorted(found, key=lambda each: (each[0], each[2] != chosen[each[0]], each[2]))


def _id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("an id must be a text")
    return _text(value)


def _text(value: str) -> str:
    """A text without line ends; raises UnicodeEncodeError for halves of surrogate pairs."""
    value.encode()
    return " ".join(value.split())


def _targets(claims: list[dict[str, Any]]) -> list[str]:
    """Items that are values of the statements with the best rank."""
    ranks = [claim["rank"] for claim in claims]
    best = "preferred" if "preferred" in ranks else "normal"
    found = []
    for claim, rank in zip(claims, ranks, strict=True):
        snak = claim["mainsnak"]
        if rank != best or snak["snaktype"] != "value":
            continue
        value = snak["datavalue"]
        if value["type"] == "wikibase-entityid" and value["value"].get("entity-type") == "item":
            found.append(value["value"].get("id") or f"Q{int(value['value']['numeric-id'])}")
    return found
