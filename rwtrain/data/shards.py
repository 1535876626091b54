"""The on-disk training format: uncompressed Arrow IPC shards beside a `manifest.json`. This file is the schema's one home.

A dataset is a folder of `shard-00000.arrow`, `shard-00001.arrow`, … and a `manifest.json` that is written last: a folder
without one is unfinished and is refused. A row is a document. Each shard is one record batch, memory-mapped, and read
as numpy views of the flat value buffers, so a window of tokens costs no copy and no Python per token.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rwtrain.errors import DataError
from rwtrain.files import atomic_path, content_hash, write_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
DOCUMENT_BYTES = 64  # what a document's other columns are taken to need


def arrow_schema(token_dtype: str) -> pa.Schema:
    """The columns of a shard; `token_dtype` is "uint16" for vocabularies up to 65,536 entries, else "uint32"."""
    return pa.schema(
        [
            pa.field("doc_id", pa.large_string()),
            pa.field("source", pa.large_string()),
            pa.field("language", pa.large_string()),
            pa.field("content_id", pa.uint64()),
            pa.field("tokens", pa.large_list(pa.from_numpy_dtype(np.dtype(token_dtype)))),
            pa.field("mention_start", pa.large_list(pa.int32())),
            pa.field("mention_end", pa.large_list(pa.int32())),
            pa.field("mention_entity", pa.large_list(pa.int32())),
            pa.field("images", pa.large_list(pa.large_binary())),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a shard.

    Attributes:
        doc_id: stable identifier, unique in the dataset.
        source: where it came from (a URL, a dump and page id, a file and row).
        language: ISO 639-1 code, "und" if unknown.
        content_id: 64-bit id of the content; rows that share it are never each other's negatives.
        tokens: token ids, 1-D, beginning with the begin-of-sequence id and ending with the end-of-sequence id.
        mention_start: first token of each linked entity mention (index into `tokens`), ascending, not overlapping.
        mention_end: one past the last token of each mention.
        mention_entity: row of each mention's entity in the entity store named by the manifest.
        images: encoded image files (PNG, JPEG, …), in order of appearance; `tokens` then is their caption or context.
    """

    doc_id: str
    tokens: np.ndarray
    content_id: int
    source: str = ""
    language: str = "und"
    mention_start: Iterable[int] = ()
    mention_end: Iterable[int] = ()
    mention_entity: Iterable[int] = ()
    images: list[bytes] = field(default_factory=list)


class ShardWriter:
    """Write documents, in order, into shards of bounded size; the manifest comes last, at `close`.

    Use as a context manager: leaving it with an exception writes no manifest.

    Args:
        folder: output folder; created; shards of an earlier unfinished run are overwritten.
        vocab_size: number of token ids; decides between uint16 and uint32 storage.
        tokenizer_hash: `rwtrain.files.content_hash` of the tokenizer model that made the ids.
        entity_store_hash: identity of the entity store that `mention_entity` points into, or None without mentions.
        provenance: anything that says how the data was made; stored as is.
        max_shard_bytes: a shard is closed when its documents reach this size.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        vocab_size: int,
        tokenizer_hash: str,
        entity_store_hash: str | None = None,
        provenance: dict[str, Any] | None = None,
        max_shard_bytes: int = 256 << 20,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.token_dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self.max_shard_bytes = max_shard_bytes
        self._schema = arrow_schema(self.token_dtype)
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[Document] = []  # they come after the batches
        self._waiting_bytes = 0
        self._manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "vocab_size": vocab_size,
            "token_dtype": self.token_dtype,
            "tokenizer_hash": tokenizer_hash,
            "entity_store_hash": entity_store_hash,
            "documents": 0,
            "tokens": 0,
            "mentions": 0,
            "images": 0,
            "bytes": 0,
            "shards": [],
            "provenance": provenance or {},
        }

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, exception_type: type | None, *_: object) -> None:
        if exception_type is None:
            self.close()

    def add(self, document: Document) -> None:
        """Append one document; raises `DataError` for a mention outside of it."""
        for start, end in zip(document.mention_start, document.mention_end, strict=True):
            if not 0 <= start < end <= len(document.tokens):
                problem = f"a mention of tokens {start} to {end} in a document of {len(document.tokens)}"
                raise DataError(self.folder, problem, "Correct the spans: 0 <= start < end <= tokens", record=document.doc_id)
        self._rows.append(document)
        self._waiting_bytes += document.tokens.size * np.dtype(self.token_dtype).itemsize + sum(map(len, document.images)) + DOCUMENT_BYTES
        if self._waiting_bytes >= self.max_shard_bytes:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Append documents given as columns (`arrow_schema`): the same shards as by `add`, many times as fast."""
        if not len(batch):
            return
        self._settle()
        batch = batch.select(self._schema.names).cast(self._schema)
        tokens = np.diff(batch.column("tokens").offsets.to_numpy()) * np.dtype(self.token_dtype).itemsize
        sizes = tokens + _image_bytes(batch.column("images")) + DOCUMENT_BYTES
        start = 0
        while start < len(batch):
            ends = self._waiting_bytes + np.cumsum(sizes[start:])
            count = min(int(np.searchsorted(ends, self.max_shard_bytes)) + 1, len(batch) - start)
            self._batches.append(batch.slice(start, count))
            self._waiting_bytes = int(ends[count - 1])
            start += count
            if self._waiting_bytes >= self.max_shard_bytes:
                self._flush()

    def close(self) -> dict[str, Any]:
        """Write the last shard and the manifest; return the manifest."""
        if self._rows or self._batches:
            self._flush()
        write_json(self.folder / MANIFEST, self._manifest)
        return self._manifest

    def _settle(self) -> None:
        """Turn waiting documents into a batch."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        columns = [
            pa.array([row.doc_id for row in rows], pa.large_string()),
            pa.array([row.source for row in rows], pa.large_string()),
            pa.array([row.language for row in rows], pa.large_string()),
            pa.array(np.array([row.content_id for row in rows], np.uint64)),
            _large_list([row.tokens for row in rows], self.token_dtype),
            _large_list([row.mention_start for row in rows], "int32"),
            _large_list([row.mention_end for row in rows], "int32"),
            _large_list([row.mention_entity for row in rows], "int32"),
            pa.array([row.images for row in rows], self._schema.field("images").type),
        ]
        self._batches.append(pa.record_batch(columns, schema=self._schema))

    def _flush(self) -> None:
        self._settle()
        # With a second chunk Arrow copies: a lone slice would be written with bytes of its neighbours as padding.
        copied = pa.Table.from_batches([*self._batches, self._batches[0].slice(0, 0)], self._schema).combine_chunks()
        (batch,) = copied.to_batches()
        self._batches, self._waiting_bytes = [], 0
        path = self.folder / f"shard-{len(self._manifest['shards']):05d}.arrow"
        with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            with pa.ipc.new_file(sink, self._schema) as writer:
                writer.write_batch(batch)
        counts = {name: len(batch.column(column).flatten()) for name, column in (("tokens", "tokens"), ("mentions", "mention_start"), ("images", "images"))}
        shard = {"file": path.name, "hash": content_hash(path), "bytes": path.stat().st_size, "documents": len(batch), "tokens": counts["tokens"]}
        self._manifest["shards"].append(shard)
        for key in ("documents", "bytes"):
            self._manifest[key] += shard[key]
        for key, count in counts.items():
            self._manifest[key] += count


def _image_bytes(images: pa.LargeListArray) -> np.ndarray:
    """Bytes of each document's images, [documents] int64."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(pc.binary_length(images.flatten()).to_numpy())])
    places = images.offsets.to_numpy() - images.offsets[0].as_py()
    return np.diff(ends[places])


def _large_list(arrays: list[Any], dtype: str) -> pa.LargeListArray:
    flat = [np.asarray(array if isinstance(array, np.ndarray) else list(array), dtype) for array in arrays]
    offsets = np.zeros(len(flat) + 1, np.int64)
    np.cumsum([array.size for array in flat], out=offsets[1:])
    values = np.concatenate(flat) if flat else np.zeros(0, dtype)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


class Shard:
    """Numpy views of one memory-mapped shard; valid as long as this object lives."""

    def __init__(self, path: Path) -> None:
        try:
            self._batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(path, f"not a readable Arrow shard ({error})", "Write the dataset again with `rwtrain prep`") from error
        self.tokens, self.token_offsets = self._flat("tokens")
        self.mention_start, self.mention_offsets = self._flat("mention_start")
        self.mention_end, _ = self._flat("mention_end")
        self.mention_entity, _ = self._flat("mention_entity")
        self.content_id = self._batch.column("content_id").to_numpy()

    def _flat(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        column = self._batch.column(name)
        return column.values.to_numpy(), column.offsets.to_numpy()

    def doc_id(self, row: int) -> str:
        return self._batch.column("doc_id")[row].as_py()

    def language(self, row: int) -> str:
        return self._batch.column("language")[row].as_py()

    def source(self, row: int) -> str:
        return self._batch.column("source")[row].as_py()

    def images(self, row: int) -> list[bytes]:
        """The encoded images of one document."""
        return self._batch.column("images")[row].as_py()


class ShardDataset:
    """Random access to a dataset's documents by one global index, through memory-mapped shards.

    Args:
        folder: a folder written by `ShardWriter`.
        verify: compare every shard's checksum with the manifest (reads all bytes once); sizes are always compared.

    Raises:
        DataError: the folder holds no finished dataset, or a shard is missing, truncated or corrupt.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise DataError(self.folder, "no finished dataset here (manifest.json is missing)", "Run `rwtrain prep` to the end, or correct the path")
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = self.manifest["schema_version"]
        except (ValueError, KeyError) as error:
            raise DataError(path, f"not a dataset manifest ({error})", "Write the dataset again with `rwtrain prep`") from error
        if version != SCHEMA_VERSION:
            raise DataError(path, f"schema version {version}, this release reads {SCHEMA_VERSION}", "Write the dataset again with `rwtrain prep`")
        for entry in self.manifest["shards"]:
            self.check_shard(entry, verify=verify)
        self.shard_starts: list[int] = np.cumsum([0] + [entry["documents"] for entry in self.manifest["shards"]]).tolist()
        self._shards: list[Shard | None] = [None] * len(self.manifest["shards"])

    def check_shard(self, entry: dict[str, Any], *, verify: bool) -> None:
        """Compare one shard's size, and with `verify` its checksum, with the manifest; raise `DataError` on a difference."""
        path = self.folder / Path(entry["file"]).name
        if not path.is_file():
            raise DataError(path, "the shard is missing", "Copy it again, or write the dataset again with `rwtrain prep`")
        if path.stat().st_size != entry["bytes"]:
            raise DataError(
                path,
                f"{path.stat().st_size} bytes, the manifest says {entry['bytes']}",
                "The file is truncated or was changed: copy it again, or write the dataset again with `rwtrain prep`",
            )
        if verify and (found := content_hash(path)) != entry["hash"]:
            raise DataError(
                path,
                f"checksum {found}, the manifest says {entry['hash']}",
                "The file is corrupt: copy it again, or write the dataset again with `rwtrain prep`",
            )

    def __len__(self) -> int:
        return self.shard_starts[-1]

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard that holds document `index`, and the document's row in it."""
        number = bisect.bisect_right(self.shard_starts, index) - 1
        shard = self._shards[number]
        if shard is None:
            shard = self._shards[number] = Shard(self.folder / Path(self.manifest["shards"][number]["file"]).name)
        return shard, int(index - self.shard_starts[number])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Token count of every document, [documents] int64."""
        parts = [np.diff(self.locate(start)[0].token_offsets) for start in self.shard_starts[:-1]]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def tokens(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A view of document `index`'s token ids from `start` to `stop`."""
        shard, row = self.locate(index)
        first, last = int(shard.token_offsets[row]), int(shard.token_offsets[row + 1])
        return shard.tokens[first + start : last if stop is None else min(first + stop, last)]

    def check_mentions(self, entities: int | None = None) -> None:
        """Raise `DataError` for a mention that lies outside its document, or names no row of a store of `entities`."""
        for number, first in enumerate(self.shard_starts[:-1]):
            shard, _ = self.locate(int(first))
            counts = np.diff(shard.mention_offsets)
            length = np.repeat(np.diff(shard.token_offsets), counts)
            start, end, entity = shard.mention_start, shard.mention_end, shard.mention_entity
            wrong = (start < 0) | (start >= end) | (end > length) | (entity < 0)
            if entities is not None:
                wrong |= entity >= entities
            if wrong.any():
                place = int(np.flatnonzero(wrong)[0])
                row = int(np.searchsorted(shard.mention_offsets, place, side="right")) - 1
                raise DataError(
                    self.folder / self.manifest["shards"][number]["file"],
                    f"{int(wrong.sum())} mentions lie outside their document or the entity store, the first: tokens {start[place]} to {end[place]} "
                    f"of {length[place]}, entity {entity[place]}",
                    "Write the dataset again with `rwtrain prep`",
                    record=shard.doc_id(row),
                )

    def mentions(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(start, end, entity row) of document `index`'s mentions, each [mentions] int32."""
        shard, row = self.locate(index)
        part = slice(int(shard.mention_offsets[row]), int(shard.mention_offsets[row + 1]))
        return shard.mention_start[part], shard.mention_end[part], shard.mention_entity[part]
