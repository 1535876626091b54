"""Where documents come from. Each kind of source has `cut` (into how many stretches a file goes) and `read` (the records of one stretch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_prep.plan import Plan
from data_prep.records import Bad, Record, Redirect
from data_prep.source_plan import IdxSource, Source
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


def read(plan: Plan, source: Source, span: Span) -> Iterator[Record | Redirect | Bad]:
    """The records of one stretch, in the order of the file."""
    if isinstance(source, IdxSource):
        return idx.read(source, span, seed=plan.seed)
    return READERS[source.kind].read(source, span)
