"""Where documents come from. Each kind of source has `spans` (its work units) and `read` (the records of one unit)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_prep.plan import IdxSource, Plan, Source
from data_prep.records import Bad, Record
from data_prep.sources import idx, image_text, text, warc, warc_images, wikipedia
from data_prep.sources.spans import Span

READERS: dict[str, Any] = {
    "warc": warc,
    "wet": warc,
    "wikipedia": wikipedia,
    "text": text,
    "idx": idx,
    "warc_images": warc_images,
    "webdataset": image_text,
    "image_table": image_text,
}


def spans(plan: Plan, source: Source) -> list[Span]:
    """The work units of a source, in order.

    Raises:
        DataError: its files are missing or, for IDX files, unreadable.
    """
    return READERS[source.kind].spans(source, unit_bytes=plan.unit_bytes)


def read(plan: Plan, source: Source, span: Span) -> Iterator[Record | Bad]:
    """The records of one work unit, in the order of the file."""
    if isinstance(source, IdxSource):
        return idx.read(source, span, seed=plan.seed)
    return READERS[source.kind].read(source, span)
