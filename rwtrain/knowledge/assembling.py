"""From parts to rows: triples and facts get the rows of their entities, then the rows are put together range by range.

Two steps, each over pieces that fit in memory and are kept once they are written:

1. `resolve`: a group of parts → links as (head row, relation row, tail row) and facts by row, both sorted by ranges of rows;
2. `assemble`: a range of rows → its entities, and its triples without repetitions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rwtrain.files import atomic_path
from rwtrain.knowledge.numbering import RowIndex, load_places, read_summary
from rwtrain.knowledge.parts import (
    ALIAS,
    DESCRIPTION,
    ID,
    LABEL,
    SITELINKS,
    TITLE,
    TYPE,
    WIKIDATA_ID,
    finish_part,
    load_columns,
    part_path,
    save_columns,
)
from rwtrain.knowledge.store import ENTITY_SCHEMA, SPLITS, hash_ids
from rwtrain.knowledge.writing import BATCH_ROWS, KEPT_REJECTS, write_arrow

GROUP_IDS = 1 << 20
RANGE_ROWS = 1 << 18
LINKS_SCHEMA = pa.schema(
    {"head": pa.int32(), "relation": pa.int32(), "tail": pa.int32(), "split": pa.uint8(), "part": pa.int32(), "line": pa.int64()},
)
FACTS_SCHEMA = pa.schema({"row": pa.int32(), "kind": pa.uint8(), "place": pa.uint8(), "text": pa.large_string()})
NOT_IN_STORE = "triple to an entity that is not in the store"


@dataclass(frozen=True)
class Job:
    """What every step needs to know.

    Attributes:
        folder: where the parts are.
        prefixes: all parts, in source order.
        splits: the split of each part's links.
        relations: rows of the relations by id.
        trained_relations: those that occur in training triples.
        languages: names of the places of facts.
    """

    folder: Path
    prefixes: list[Path]
    splits: list[str]
    relations: dict[str, int]
    trained_relations: frozenset[str]
    languages: tuple[str, ...]


def groups_of(prefixes: list[Path]) -> list[tuple[int, int]]:
    """Ranges of parts that name about a million ids together."""
    groups, first, held = [], 0, 0
    for number, prefix in enumerate(prefixes):
        held += read_summary(prefix)["ids"]
        if held >= GROUP_IDS or number == len(prefixes) - 1:
            groups.append((first, number + 1))
            first, held = number + 1, 0
    return groups


def resolve(job: Job, group: tuple[int, int], prefix: Path) -> None:
    """Write the links and facts of a group of parts with the rows of their entities."""
    index, places = RowIndex(job.folder), load_places(job.folder)
    summary: dict[str, Any] = {"rejects": Counter(), "kept": [], "dropped": Counter(), "relation_labels": {}}
    links: list[dict[str, np.ndarray]] = []
    facts: list[pa.RecordBatch] = []
    for number in range(*group):
        part = job.prefixes[number]
        details = read_summary(part)
        rows, repeated = _rows_of_part(index, places, part, number, facts, summary)
        links.append(_links_of_part(job, part, number, details, rows, repeated, summary))
        facts.append(_facts_of_part(job, part, details, rows, repeated, summary))
    merged = {name: np.concatenate([each[name] for each in links]) for name in LINKS_SCHEMA.names}
    order = np.argsort(merged["head"] // RANGE_ROWS, kind="stable")
    save_columns(prefix, "links", LINKS_SCHEMA, {name: values[order] for name, values in merged.items()})
    table = pa.Table.from_batches(facts, FACTS_SCHEMA).combine_chunks()
    order = np.argsort(table.column("row").to_numpy(), kind="stable")
    save_columns(prefix, "facts", FACTS_SCHEMA, {name: _one(table.column(name).take(pa.array(order))) for name in FACTS_SCHEMA.names})
    finish_part(prefix, summary)


def _reject(summary: dict[str, Any], part: int, line: int, reason: str, content: str) -> None:
    summary["rejects"][reason] += 1
    if len(summary["kept"]) < KEPT_REJECTS:
        summary["kept"].append({"part": part, "record": line, "reason": reason, "content": content})


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _rows_of_part(index: RowIndex, places: Any, part: Path, number: int, facts: list[pa.RecordBatch], summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Row of each id of a part (-1: none), and which ids have a second record here that does not count."""
    ids = load_columns(part, "ids")
    numbers = ids.column("number").to_numpy()
    defines = ids.column("defines").to_numpy(zero_copy_only=False)
    lines = ids.column("line").to_numpy()
    found = index.find(ids.column("hash").to_numpy())
    rows = np.empty(len(numbers), np.int32)
    rows[numbers] = found
    first = np.zeros(len(numbers), bool)
    first[defines] = places.is_marked(places.offset[number] + numbers[defines].astype(np.int64))
    repeated = np.zeros(len(numbers), bool)
    again = defines & ~first & (lines > 0)
    repeated[numbers[again]] = True
    for line, name in sorted(zip(lines[again].tolist(), ids.column("id").filter(pa.array(again)).to_pylist(), strict=True)):
        _reject(summary, number, line, "repeated entity", name)
    chosen = pa.array(first)
    names = ids.column("id").filter(chosen).cast(pa.large_string())
    kind = np.full(len(names), ID, np.uint8)
    columns = {"row": found[first], "kind": kind, "place": np.zeros(len(names), np.uint8), "text": names}
    facts.append(
        pa.RecordBatch.from_arrays([pa.array(column) if isinstance(column, np.ndarray) else column for column in columns.values()], schema=FACTS_SCHEMA)
    )
    return rows, repeated


def _links_of_part(
    job: Job, part: Path, number: int, details: dict[str, Any], rows: np.ndarray, repeated: np.ndarray, summary: dict[str, Any]
) -> dict[str, np.ndarray]:
    batch = load_columns(part, "links")
    head, relation, tail, line = (batch.column(name).to_numpy() for name in ("head", "relation", "tail", "line"))
    split = job.splits[number]
    known = np.array([split == SPLITS[0] or name in job.trained_relations for name in details["relations"]], bool)
    row_of_relation = np.array([job.relations[name] if fine else -1 for name, fine in zip(details["relations"], known, strict=True)], np.int32)
    keep = ~repeated[head] & (rows[head] >= 0) if len(head) else np.zeros(0, bool)
    if not known.all():
        unknown = keep & ~known[relation]
        for place in np.flatnonzero(unknown):
            _reject(summary, number, int(line[place]), "relation without training triples", details["relations"][relation[place]])
        keep &= known[relation]
    inside = rows[tail] >= 0 if len(tail) else keep
    summary["dropped"][NOT_IN_STORE] += int((keep & ~inside).sum())
    keep &= inside
    return {
        "head": rows[head[keep]],
        "relation": row_of_relation[relation[keep]],
        "tail": rows[tail[keep]],
        "split": np.full(int(keep.sum()), SPLITS.index(split), np.uint8),
        "part": np.full(int(keep.sum()), number, np.int32),
        "line": line[keep],
    }


def _facts_of_part(job: Job, part: Path, details: dict[str, Any], rows: np.ndarray, repeated: np.ndarray, summary: dict[str, Any]) -> pa.RecordBatch:
    batch = load_columns(part, "facts")
    entity = batch.column("entity").to_numpy()
    if not len(entity):
        return pa.RecordBatch.from_pylist([], schema=FACTS_SCHEMA)
    row = rows[entity]
    outside = np.flatnonzero((row < 0) & (batch.column("kind").to_numpy() == LABEL))
    if len(outside):
        ids = load_columns(part, "ids")
        wanted = {int(hash_): name for name, hash_ in zip(job.relations, hash_ids(list(job.relations)).tolist(), strict=True)}
        by_number = np.empty(len(rows), np.uint64)
        by_number[ids.column("number").to_numpy()] = ids.column("hash").to_numpy()
        for place in outside[np.isin(by_number[entity[outside]], np.array(list(wanted), np.uint64))].tolist():
            labels = summary["relation_labels"].setdefault(wanted[int(by_number[entity[place]])], [])
            labels.append([int(batch.column("place")[place].as_py()), batch.column("text")[place].as_py()])
    keep = pa.array((row >= 0) & ~repeated[entity])
    columns = [pa.array(row), batch.column("kind"), batch.column("place"), batch.column("text")]
    return pa.RecordBatch.from_arrays([column.filter(keep) for column in columns], schema=FACTS_SCHEMA)


def assemble(job: Job, groups: list[Path], first: int, last: int, prefix: Path) -> None:
    """Write the entities of rows [first, last), and their triples without repetitions."""
    batch, sitelinks = entity_rows(_slice(groups, "facts", "row", first, last, FACTS_SCHEMA), first, last - first, job.languages)
    with atomic_path(part_path(prefix, "entities")) as path:
        write_arrow(path, ENTITY_SCHEMA, (batch.slice(start, BATCH_ROWS) for start in range(0, len(batch), BATCH_ROWS)))
    save_columns(prefix, "sitelinks", pa.schema({"count": pa.int64()}), {"count": sitelinks})
    links = _slice(groups, "links", "head", first, last, LINKS_SCHEMA)
    head, relation, tail, split, part, line = (column.to_numpy() for column in links.columns)
    order = np.lexsort((line, part, split, tail, relation, head))
    again = np.zeros(len(order), bool)
    same = [column[order][1:] == column[order][:-1] for column in (head, relation, tail)]
    again[order[1:]] = same[0] & same[1] & same[2]
    kept = np.flatnonzero(~again)
    counts = []
    for number, name in enumerate(SPLITS):
        rows = kept[split[kept] == number]
        rows = rows[np.lexsort((line[rows], part[rows]))]
        counts.append(len(rows))
        triples = np.stack([head[rows], relation[rows], tail[rows]], 1) if len(rows) else np.zeros((0, 3), np.int32)
        save_columns(prefix, name, pa.schema({"row": pa.int32()}), {"row": triples.ravel()})
    repeated = np.flatnonzero(again)
    repeated = repeated[np.lexsort((line[repeated], part[repeated]))][:KEPT_REJECTS]
    rejects = [[int(part[place]), int(line[place])] for place in repeated]
    finish_part(prefix, {"entities": last - first, "triples": counts, "repeated": int(again.sum()), "kept": rejects})


def _slice(groups: list[Path], name: str, key: str, first: int, last: int, schema: pa.Schema) -> pa.Table:
    """The rows of all groups whose key is in [first, last), in the order of the groups; the files are sorted by ranges of the key.

    They are copied group by group: some ten megabytes around the few pages that are read of a mapped file count as this process's memory until it
    lets go of it, which for the hundreds of groups of a large graph would be gigabytes.
    """
    found = []
    for group in groups:
        batch = load_columns(group, name)
        ranges = batch.column(key).to_numpy()
        start, stop = _search(ranges, first), _search(ranges, last)
        if stop > start:
            found.append(batch.take(pa.array(np.arange(start, stop))))
    return pa.Table.from_batches(found, schema).combine_chunks()


def _search(values: np.ndarray, bound: int) -> int:
    """Where the range that begins at `bound` begins, in values sorted by their range; touches a few pages of the file only."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if values[middle] < bound else (low, middle)
    return low


def entity_rows(facts: pa.Table, first: int, count: int, languages: tuple[str, ...]) -> tuple[pa.RecordBatch, np.ndarray]:
    """Facts of rows [first, first + count) as a batch of `ENTITY_SCHEMA`, and the entities' numbers of sitelinks."""
    row = facts.column("row").to_numpy().astype(np.int64) - first
    kind, place = facts.column("kind").to_numpy(), facts.column("place").to_numpy()
    text = _one(facts.column("text"))
    order = np.lexsort((place, kind, row))
    row, kind, place = row[order], kind[order], place[order]

    def one(wanted: int) -> np.ndarray:
        """Position in `order` of each entity's first fact of a kind; -1 if it has none."""
        chosen = np.flatnonzero(kind == wanted)
        found = np.full(count, -1, np.int64)
        found[row[chosen[::-1]]] = chosen[::-1]
        return found

    def texts(positions: np.ndarray) -> pa.Array:
        missing = positions < 0
        return text.take(pa.array(np.where(missing, 0, order[positions]), mask=missing)).fill_null("").cast(pa.string())

    def lists(positions: np.ndarray, values: pa.Array) -> pa.Array:
        ends = np.cumsum(np.bincount(row[positions], minlength=count))
        return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), values)

    label = one(LABEL)
    names = np.flatnonzero((kind == LABEL) | (kind == ALIAS))
    names = names[_first_of_name(text, order, names, row, place, label)]
    spoken = pa.array([*languages, ""], pa.string())
    own = np.where(label >= 0, place[label] if len(place) else 0, len(languages))
    types, titles = np.flatnonzero(kind == TYPE), np.flatnonzero(kind == TITLE)
    split = pc.split_pattern(texts(titles), ":", max_splits=1)
    sitelinks = one(SITELINKS)
    numbers = pc.cast(pc.if_else(pc.equal(texts(sitelinks), ""), "0", texts(sitelinks)), pa.int64()).to_numpy()
    ids, given = texts(one(ID)), texts(one(WIKIDATA_ID))
    columns = {
        "id": ids,
        "wikidata_id": pc.if_else(pc.and_(pc.equal(given, ""), pc.match_substring_regex(ids, "^Q[0-9]+$")), ids, given),
        "label": texts(label),
        "label_language": spoken.take(pa.array(own)),
        "description": texts(one(DESCRIPTION)),
        "aliases": lists(names, texts(names)),
        "alias_languages": lists(names, spoken.take(pa.array(place[names]))),
        "alias_labels": lists(names, pa.array(kind[names] == LABEL)),
        "types": lists(types, texts(types)),
        "wikis": lists(titles, pc.list_element(split, 0)),
        "titles": lists(titles, pc.list_element(split, 1)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in ENTITY_SCHEMA.names], schema=ENTITY_SCHEMA), numbers


def _first_of_name(text: pa.Array, order: np.ndarray, names: np.ndarray, row: np.ndarray, place: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Which names differ from the entity's label and from its earlier names in the same language."""
    if not len(names):
        return np.zeros(0, np.int64)
    code = text.take(pa.array(order[names])).dictionary_encode().indices.to_numpy().astype(np.int64)
    key = (row[names] * 256 + place[names]) * (int(code.max()) + 1) + code
    _, first = np.unique(key, return_index=True)
    first = np.sort(first)
    return first[~np.isin(names[first], label)]
