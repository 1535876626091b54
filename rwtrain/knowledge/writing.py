"""Write entity stores and their vectors, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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
    hash_ids,
)

BATCH_ROWS = 65_536
KEPT_REJECTS = 10_000


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


def write_store(
    out: str | Path,
    *,
    entities: Iterable[pa.RecordBatch],
    relations: list[tuple[str, str]],
    triples: dict[str, np.ndarray],
    rejects: Rejects,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write a store atomically and return its manifest.

    Args:
        out: the folder; an existing store there is replaced when the new one is complete.
        entities: record batches of `ENTITY_SCHEMA`, in row order.
        relations: (id, label) of each relation, in row order.
        triples: [triples, 3] int32 rows by split.
        rejects: what the importer set aside.
        provenance: how the store was made.

    Raises:
        DataError: no entities, or a folder that is not a store stands at `out`.
    """
    out = Path(out)
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(out, "something that is not an entity store stands there", "Give another --out, or remove it")
    with atomic_folder(out) as folder:
        count, digest, id_hash, id_row = _write_entities(folder / "entities.arrow", entities)
        if count == 0:
            raise DataError(out, "the sources hold no usable entities", "Check the sources and the reasons printed above")
        write_arrow(
            folder / "relations.arrow",
            RELATION_SCHEMA,
            [pa.RecordBatch.from_pylist([{"id": id_, "label": label} for id_, label in relations], schema=RELATION_SCHEMA)],
        )
        for split in SPLITS:
            np.save(folder / f"{split}.npy", np.ascontiguousarray(triples.get(split, np.zeros((0, 3), np.int32)), np.int32))
        train = np.load(folder / "train.npy")
        np.save(folder / "popularity.npy", np.bincount(train[:, [0, 2]].ravel(), minlength=count).astype(np.int64))
        order = np.argsort(id_hash, kind="stable")
        np.save(folder / "id_hash.npy", id_hash[order])
        np.save(folder / "id_row.npy", id_row[order])
        rejects.write(folder / "rejects.jsonl")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "hash": digest,
            "entities": count,
            "relations": len(relations),
            "triples": {split: len(triples.get(split, ())) for split in SPLITS},
            "rejects": dict(rejects.counts),
            "files": describe_files(folder),
            "provenance": provenance,
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _write_entities(path: Path, batches: Iterable[pa.RecordBatch]) -> tuple[int, str, np.ndarray, np.ndarray]:
    """Stream the batches to `path`; return row count, identity hash, and the external-id hashes with their rows."""
    digest = xxhash.xxh3_128()
    hashes: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ENTITY_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            ids, wikidata_ids = batch.column("id").to_pylist(), batch.column("wikidata_id").to_pylist()
            for external_id in ids:
                digest.update(external_id.encode() + b"\0")
            number = np.arange(count, count + len(ids), dtype=np.int32)
            other = [(row, name) for row, (name, id_) in enumerate(zip(wikidata_ids, ids, strict=True)) if name and name != id_]
            hashes += [hash_ids(ids), hash_ids([name for _, name in other])]
            rows += [number, number[[row for row, _ in other]]]
            count += len(ids)
    if not count:
        return 0, "", np.zeros(0, np.uint64), np.zeros(0, np.int32)
    return count, digest.hexdigest(), np.concatenate(hashes), np.concatenate(rows)


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
