"""The unit of work between stages: one document, and how a batch of them becomes Parquet and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.links import Link, realign
from rwtrain.files import atomic_path

ROWS_PER_GROUP = 1024

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.large_string()),
        pa.field("source", pa.large_string()),
        pa.field("language", pa.large_string()),
        pa.field("split", pa.large_string()),
        pa.field("content_id", pa.uint64()),
        pa.field("text", pa.large_string()),
        pa.field("images", pa.large_list(pa.large_binary())),
        pa.field("links", pa.large_list(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("page", pa.large_string())]))),
    ]
)


@dataclass(slots=True)
class Record:
    """One document on its way through the stages.

    Attributes:
        doc_id: stable identifier, unique in the corpus.
        source: where it came from: a URL, or a file and a place in it.
        text: the text; empty before extraction.
        raw: the undecoded or unstripped original, dropped by extraction.
        charset: character encoding that the transport declared for `raw`, if any.
        language: ISO 639-1 code, "und" if unknown.
        split: "train", "valid" or "test".
        content_id: 64-bit id of the content; documents that share it are never each other's negatives.
        images: encoded image files; `text` is then their caption or context.
        links: links to wiki pages in `text`, ascending, not overlapping.
        cache: results that several stages share (word boundaries); valid only for this `text`.
    """

    doc_id: str
    source: str
    text: str = ""
    raw: bytes | str | None = None
    charset: str | None = None
    language: str = "und"
    split: str = ""
    content_id: int = 0
    images: list[bytes] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)

    def with_text(self, text: str) -> Record:
        """A copy with another text, made from this one's, and nothing cached."""
        return replace(self, text=text, raw=None, cache={}, links=realign(self.text, text, self.links))


@dataclass(frozen=True, slots=True)
class Removed:
    """A stage's decision to drop a document on purpose; `reason` is short and countable, such as `too few words`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that cannot be used: it is written to the quarantine file.

    Attributes:
        file: input file.
        record: offset, number or id of the record inside the file.
        reason: what is wrong with it.
    """

    file: str
    record: str
    reason: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """A page that only sends to another: titles of both."""

    title: str
    target: str


def write_records(path: str | Path, batches: Iterable[list[Record]]) -> int:
    """Write batches of records to a Parquet file (zstd), atomically; return the number of rows."""
    rows = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(str(temporary), SCHEMA, compression="zstd", compression_level=3) as writer:
        for batch in batches:
            if batch:
                writer.write_batch(_to_arrow(batch))
                rows += len(batch)
    return rows


def read_records(path: str | Path) -> Iterator[list[Record]]:
    """The records of a file that `write_records` wrote, in batches."""
    with pq.ParquetFile(str(path)) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            names = batch.schema.names
            columns = [[[Link(**link) for link in links] for links in values] if name == "links" else values for name, values in _lists(batch)]
            yield [Record(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def _lists(batch: pa.RecordBatch) -> Iterator[tuple[str, list[Any]]]:
    return ((name, batch.column(name).to_pylist()) for name in batch.schema.names)


def _to_arrow(records: list[Record]) -> pa.RecordBatch:
    columns = [pa.array([getattr(record, column.name) for record in records], column.type) for column in SCHEMA]
    return pa.record_batch(columns, schema=SCHEMA)
