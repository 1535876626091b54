"""What one stretch of a source says, in memory and on disk: the unit of work of an import.

Inside a part, entities and relations are numbered in order of first appearance; their rows in the store are decided when all parts are
there. On disk a part is four Arrow files and a JSON file, which is written last and makes the part count as finished:

    NAME.ids.arrow        hash, number, defines, line, id; sorted by hash; the text only of ids that make an entity of the store
    NAME.links.arrow      head, relation, tail (numbers inside the part), line
    NAME.facts.arrow      entity (number inside the part), kind, place (language, by its place in the list of languages), text
    NAME.redirects.arrow  id, target
    NAME.json             lines, relations, rejects, dropped
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rwtrain.files import atomic_path, write_json
from rwtrain.knowledge.store import hash_ids
from rwtrain.knowledge.writing import Rejects, write_arrow

# Kinds of facts, in the order in which they stand in a sorted part.
ID, WIKIDATA_ID, LABEL, ALIAS, DESCRIPTION, TYPE, TITLE, SITELINKS = range(8)

IDS_SCHEMA = pa.schema({"hash": pa.uint64(), "number": pa.int32(), "defines": pa.bool_(), "line": pa.int64(), "id": pa.string()})
LINKS_SCHEMA = pa.schema({"head": pa.int32(), "relation": pa.int32(), "tail": pa.int32(), "line": pa.int64()})
FACTS_SCHEMA = pa.schema({"entity": pa.int32(), "kind": pa.uint8(), "place": pa.uint8(), "text": pa.large_string()})
REDIRECTS_SCHEMA = pa.schema({"id": pa.string(), "target": pa.string()})


class Part:
    """Collects what a stretch of a source says. Ids become entities of the store by `mention` or `define`; others only lead to them.

    Args:
        file: the source's name, for rejects.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines = 0
        self.rejects = Rejects()
        self.dropped: Counter[str] = Counter()
        self.redirects: list[tuple[str, str]] = []
        self._ids: dict[str, int] = {}
        self._makes: dict[int, int] = {}  # ids that make entities, in the order in which they do, and the lines of their records
        self._relations: dict[str, int] = {}
        self._links = array("i")
        self._link_lines = array("q")
        self._fact_keys = array("q")
        self._fact_texts: list[str] = []

    def reject(self, line: int, reason: str, content: str = "") -> None:
        """Set a record aside; `line` counts from 1 inside the part."""
        self.rejects.add(self.file, line, reason, content)

    def number(self, name: str) -> int:
        """The number of an id inside the part."""
        return self._ids.setdefault(name, len(self._ids))

    def mention(self, name: str) -> int:
        """Number of an id that is an entity because a triple names it."""
        number = self.number(name)
        self._makes.setdefault(number, 0)
        return number

    def define(self, name: str, line: int) -> int | None:
        """Number of an entity that has a record of its own; None if the part already has a record of it."""
        number = self.number(name)
        if number in self._makes:
            return None
        self._makes[number] = line
        return number

    def link(self, head: int, relation: str, tail: int, line: int) -> None:
        """A triple; its relation is named, its entities are numbers."""
        self._links.extend((head, self._relations.setdefault(relation, len(self._relations)), tail))
        self._link_lines.append(line)

    def fact(self, entity: int, kind: int, text: str, place: int = 0) -> None:
        """Something that is known about an entity."""
        self._fact_keys.append(entity << 16 | kind << 8 | place)
        self._fact_texts.append(text)

    def save(self, prefix: Path) -> None:
        """Write the part's files, the JSON file last."""
        makes = np.fromiter(self._makes, np.int64, len(self._makes))
        by_mention = list(self._ids)
        rest = np.ones(len(by_mention), bool)
        rest[makes] = False
        old = np.concatenate([makes, np.flatnonzero(rest)])  # ids that make entities come first, so that rows do not depend on where parts begin
        new = np.empty(len(old), np.int32)
        new[old] = np.arange(len(old), dtype=np.int32)
        names = [by_mention[number] for number in old.tolist()]
        hashes = hash_ids(names)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        defines = order < len(makes)
        lines = np.append(np.fromiter(self._makes.values(), np.int64, len(makes)), np.zeros(len(names) - len(makes), np.int64))
        texts = pa.array(names, pa.string()).take(pa.array(order, mask=~defines))
        ids = {"hash": hashes[order], "number": order, "defines": defines, "line": lines[order], "id": texts}
        links = np.frombuffer(self._links, np.int32).reshape(-1, 3) if self._links else np.zeros((0, 3), np.int32)
        links = np.stack([new[links[:, 0]], links[:, 1], new[links[:, 2]]], 1)
        keys = np.frombuffer(self._fact_keys, np.int64) if self._fact_keys else np.zeros(0, np.int64)
        link_lines = np.frombuffer(self._link_lines, np.int64) if self._link_lines else np.zeros(0, np.int64)
        save_columns(prefix, "ids", IDS_SCHEMA, ids)
        save_columns(prefix, "links", LINKS_SCHEMA, {"head": links[:, 0], "relation": links[:, 1], "tail": links[:, 2], "line": link_lines})
        facts = {"entity": new[keys >> 16], "kind": (keys >> 8 & 255).astype(np.uint8), "place": (keys & 255).astype(np.uint8)}
        save_columns(prefix, "facts", FACTS_SCHEMA, facts | {"text": pa.array(self._fact_texts, pa.large_string())})
        redirects = {"id": [name for name, _ in self.redirects], "target": [target for _, target in self.redirects]}
        save_columns(prefix, "redirects", REDIRECTS_SCHEMA, redirects)
        finish_part(
            prefix,
            {
                "file": self.file,
                "lines": self.lines,
                "ids": len(names),
                "makes": len(makes),
                "links": len(links),
                "relations": list(self._relations),
                "rejects": dict(self.rejects.counts),
                "kept": self.rejects.kept,
                "dropped": dict(self.dropped),
            },
        )


def save_columns(prefix: Path, name: str, schema: pa.Schema, columns: dict[str, Any]) -> None:
    """Write one Arrow file of a part, with a single record batch."""
    arrays = [column if isinstance(column, pa.Array) else pa.array(column, schema.field(key).type) for key, column in columns.items()]
    with atomic_path(part_path(prefix, name)) as path:
        write_arrow(path, schema, [pa.RecordBatch.from_arrays(arrays, schema=schema)])


def load_columns(prefix: Path, name: str) -> pa.RecordBatch:
    """One Arrow file of a part, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(part_path(prefix, name)))).get_batch(0)


def part_path(prefix: Path, name: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{name}.arrow")


def finish_part(prefix: Path, summary: dict[str, Any]) -> None:
    """Mark a part as finished: everything else of it must be on the disk."""
    write_json(prefix.with_name(f"{prefix.name}.json"), summary)
