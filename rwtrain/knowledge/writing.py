"""Write entity stores and their vectors, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from rwtrain.errors import DataError
from rwtrain.files import atomic_folder, write_json
from rwtrain.knowledge.store import (
    ENTITY_SCHEMA,
    MANIFEST,
    RELATION_SCHEMA,
    SCHEMA_VERSION,
    SPLITS,
    VECTORS_FOLDER,
    EntityStore,
    describe_files,
    first_bad_row,
)
from rwtrain.knowledge.tables import HashTableWriter, NpyReader, NpyWriter

BATCH_ROWS = 65_536
KEPT_REJECTS = 10_000
TRIPLES_PER_READ = 1 << 22
ROWS_PER_COUNT = 1 << 25


class Rejects:
    """Records that could not be used: every one is counted by reason, the first 10,000 are kept with file and record number."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[dict[str, Any]] = []

    def add(self, file: str | Path, record: int | str, reason: str, content: str = "") -> None:
        """Count one rejected record under `reason`."""
        self.counts[reason] += 1
        if len(self.kept) < KEPT_REJECTS:
            self.kept.append({"file": str(file), "record": record, "reason": reason, "content": content[:500]})

    def write(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.kept)


def entity_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Entities given as dictionaries with the keys of `ENTITY_SCHEMA`, as one record batch."""
    return pa.RecordBatch.from_pylist(rows, schema=ENTITY_SCHEMA)


def refuse_occupied(out: Path) -> None:
    """Raise `DataError` if something that is not an entity store stands at `out`."""
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(out, "something that is not an entity store stands there", "Give another --out, or remove it")


def write_store(
    out: str | Path,
    *,
    entities: Iterable[pa.RecordBatch],
    relations: list[tuple[str, str]],
    triples: dict[str, Any],
    rejects: Rejects,
    provenance: dict[str, Any],
    popularity: Iterable[np.ndarray] | None = None,
    dropped: dict[str, int] | None = None,
    redirects: Path | None = None,
) -> dict[str, Any]:
    """Write a store atomically and return its manifest; memory does not grow with the entities or triples.

    Args:
        out: the folder; an existing store there is replaced when the new one is complete.
        entities: record batches of `ENTITY_SCHEMA`, in row order.
        relations: (id, label) of each relation, in row order.
        triples: [triples, 3] int32 rows by split, or an iterable of such pieces.
        rejects: what the importer set aside.
        provenance: how the store was made.
        popularity: pieces of [entities] int64, in row order; by default how many training triples name each entity.
        dropped: counts of what the importer left out on purpose, by reason.
        redirects: an Arrow file of other ids and the rows they lead to.

    Raises:
        DataError: no entities, or a folder that is not a store stands at `out`.
    """
    out = Path(out)
    refuse_occupied(out)
    with atomic_folder(out) as folder:
        ids, titles = HashTableWriter(folder, "id"), HashTableWriter(folder, "title")
        count, digest = _write_entities(folder / "entities.arrow", entities, ids, titles)
        if count == 0:
            raise DataError(out, "the sources hold no usable entities", "Check that they are in the format you named and hold what --keep asks for")
        if redirects is not None:
            _copy_redirects(redirects, folder / "redirects.arrow", ids)
        _write_relations(folder / "relations.arrow", relations)
        counts = {split: _write_triples(folder / f"{split}.npy", triples.get(split, ())) for split in SPLITS}
        _write_popularity(folder / "popularity.npy", count, _degrees(folder / "train.npy", count) if popularity is None else popularity)
        ids.finish()
        titles.finish()
        rejects.write(folder / "rejects.jsonl")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "hash": digest,
            "entities": count,
            "relations": len(relations),
            "triples": counts,
            "popularity": "training triples" if popularity is None else "sitelinks",
            "rejects": dict(rejects.counts),
            "dropped": dropped or {},
            "files": describe_files(folder),
            "provenance": provenance,
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _write_entities(path: Path, batches: Iterable[pa.RecordBatch], ids: HashTableWriter, titles: HashTableWriter) -> tuple[int, str]:
    """Stream the batches to `path` and their ids and titles to the tables; return row count and identity hash."""
    digest = xxhash.xxh3_128()
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ENTITY_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            digest.update(_ended_texts(batch.column("id")))
            _add_ids(batch, count, ids)
            _add_titles(batch, count, titles)
            count += len(batch)
    return count, digest.hexdigest()


def _write_relations(path: Path, relations: list[tuple[str, str]]) -> None:
    rows = [{"id": id_, "label": label} for id_, label in relations]
    write_arrow(path, RELATION_SCHEMA, [pa.RecordBatch.from_pylist(rows, schema=RELATION_SCHEMA)])


def _write_popularity(path: Path, count: int, pieces: Iterable[np.ndarray]) -> None:
    with NpyWriter(path, np.int64, (count,)) as writer:
        for piece in pieces:
            writer.append(piece)


def _ended_texts(texts: pa.Array) -> bytes:
    """The texts, each followed by a zero byte."""
    joined = pc.binary_join_element_wise(texts, "", "\0")
    offsets, content = np.frombuffer(joined.buffers()[1], np.int32), joined.buffers()[2]
    return b"" if content is None else content.slice(offsets[0], offsets[len(texts)] - offsets[0]).to_pybytes()


def _add_ids(batch: pa.RecordBatch, first: int, table: HashTableWriter) -> None:
    """The ids and Wikidata ids of a batch that begins at row `first`."""
    ids, other = batch.column("id").to_pylist(), batch.column("wikidata_id").to_pylist()
    table.add(ids, np.arange(first, first + len(ids)))
    second = [(row, name) for row, (name, id_) in enumerate(zip(other, ids, strict=True), first) if name and name != id_]
    table.add([name for _, name in second], np.array([row for row, _ in second], np.int64))


def _add_titles(batch: pa.RecordBatch, first: int, table: HashTableWriter) -> None:
    """The page titles of a batch that begins at row `first`, as "wiki:title"."""
    wikis, titles = batch.column("wikis"), batch.column("titles")
    keys = pc.binary_join_element_wise(wikis.flatten(), titles.flatten(), ":").to_pylist()
    table.add(keys, pc.list_parent_indices(titles).to_numpy() + first)


def _copy_redirects(source: Path, out: Path, ids: HashTableWriter) -> None:
    table = pa.ipc.open_file(str(source)).read_all()
    write_arrow(out, table.schema, table.to_batches())
    ids.add(table.column("id").to_pylist(), table.column("entity").to_numpy())


def _write_triples(path: Path, pieces: Any) -> int:
    """Write [triples, 3] int32, given as one array or in pieces; returns their number."""
    pieces = [pieces] if isinstance(pieces, np.ndarray) else pieces
    raw, count = path.with_suffix(".raw"), 0
    with open(raw, "wb") as stream:
        for piece in pieces:
            stream.write(np.ascontiguousarray(piece, np.int32).tobytes())
            count += len(piece)
    with open(raw, "rb") as stream, NpyWriter(path, np.int32, (count, 3)) as writer:
        while chunk := stream.read(1 << 24):
            writer.append(np.frombuffer(chunk, np.int32))
    raw.unlink()
    return count


def _degrees(path: Path, count: int) -> Iterator[np.ndarray]:
    """How many triples name each entity, in pieces of rows."""
    triples = NpyReader(path)
    for first in range(0, count, ROWS_PER_COUNT):
        size = min(ROWS_PER_COUNT, count - first)
        degree = np.zeros(size, np.int64)
        for start in range(0, len(triples), TRIPLES_PER_READ):
            ends = triples.read(start, TRIPLES_PER_READ)[:, [0, 2]].ravel().astype(np.int64) - first
            degree += np.bincount(ends[(ends >= 0) & (ends < size)], minlength=size)
        yield degree


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write record batches as an uncompressed Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_vectors(
    store: EntityStore, *, entity_vectors: np.ndarray, relation_vectors: np.ndarray, details: dict[str, Any], extra_files: dict[str, bytes] | None = None
) -> Path:
    """Put vectors into a store, replacing those already there; return their folder.

    Args:
        store: the store the rows belong to.
        entity_vectors: [entities, dimension] float32.
        relation_vectors: [relations, dimension] float32.
        details: how they were trained; kept in the vectors' manifest.
        extra_files: further files to keep beside them, by name.

    Raises:
        DataError: the shapes do not fit the store, or a value is not finite.
    """
    remedy = "Train again with a smaller learning rate, or pass vectors made for this store"
    for name, array, rows in (("entity vectors", entity_vectors, len(store)), ("relation vectors", relation_vectors, store.relation_count)):
        if array.ndim != 2 or len(array) != rows or array.shape[1] != entity_vectors.shape[1]:
            raise DataError(store.folder, f"{name} of shape {list(array.shape)}, expected [{rows}, {entity_vectors.shape[-1]}]", remedy)
        bad = first_bad_row(array)
        if bad is not None:
            raise DataError(store.folder, f"{name} hold values that are not finite", remedy, record=bad)
    with atomic_folder(store.folder / VECTORS_FOLDER) as folder:
        np.save(folder / "entity_vectors.npy", np.ascontiguousarray(entity_vectors, np.float32))
        np.save(folder / "relation_vectors.npy", np.ascontiguousarray(relation_vectors, np.float32))
        for name, content in (extra_files or {}).items():
            (folder / name).write_bytes(content)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "store_hash": store.hash,
            "dimension": int(entity_vectors.shape[1]),
            "files": describe_files(folder),
            **details,
        }
        write_json(folder / MANIFEST, manifest)
    return store.folder / VECTORS_FOLDER
