"""Where documents come from. Each kind of source has `spans` (its work units) and `read` (the records of one unit)."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.plan import IdxSource, Plan, Source, TextSource, WarcSource, WetSource, WikipediaSource
from data_prep.records import Bad, Record
from data_prep.sources import idx, text, warc, wikipedia
from data_prep.sources.spans import Span


def spans(plan: Plan, source: Source) -> list[Span]:
    """The work units of a source, in order.

    Raises:
        DataError: its files are missing or, for images, unreadable.
    """
    if isinstance(source, WarcSource | WetSource):
        return warc.spans(source, unit_bytes=plan.unit_bytes)
    if isinstance(source, WikipediaSource):
        return wikipedia.spans(source, unit_bytes=plan.unit_bytes)
    if isinstance(source, TextSource):
        return text.spans(source, unit_bytes=plan.unit_bytes)
    return idx.spans(source, unit_bytes=plan.unit_bytes)


def read(plan: Plan, source: Source, span: Span) -> Iterator[Record | Bad]:
    """The records of one work unit, in the order of the file."""
    if isinstance(source, WarcSource | WetSource):
        return warc.read(source, span)
    if isinstance(source, WikipediaSource):
        return wikipedia.read(source, span)
    if isinstance(source, TextSource):
        return text.read(source, span)
    assert isinstance(source, IdxSource)
    return idx.read(source, span, seed=plan.seed)
