"""Third step: entity links, token ids and splits of one unit's remaining documents."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.substring import Documents, remaining
from data_prep.fast_encode import FastEncoder
from data_prep.hashing import hash64, hash64_of, unit_interval
from data_prep.linking import NOBODY, LinkInputs, MentionFinder, open_finder, token_spans
from data_prep.plan import Plan, SplitNode
from data_prep.records import Record
from rwtrain.data.shards import arrow_schema
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.files import atomic_path, content_hash


def choose_split(doc_id: str, splits: SplitNode, *, seed: int) -> str:
    """The split of a document, by a hash of its id: the same in every run, whatever else is in the corpus."""
    place = unit_interval(doc_id, seed)
    if place < splits.valid:
        return "valid"
    return "test" if place < splits.valid + splits.test else "train"


@lru_cache(maxsize=1)
def open_tokenizer(path: str) -> tuple[Tokenizer, FastEncoder]:
    """A tokenizer and its encoder; opened once per process and file."""
    tokenizer = Tokenizer(path)
    return tokenizer, FastEncoder(tokenizer)


@dataclass(frozen=True, slots=True)
class Task:
    """A unit of this step.

    Attributes:
        plan: the plan.
        documents: the unit's documents.
        tokenizer: tokenizer file.
        links: what entities are linked with, None if they are not.
        redirects: file of the corpus' redirects, None if links of wiki pages are left alone.
        wikis: the corpus' wikis.
    """

    plan: Plan
    documents: Documents
    tokenizer: str
    links: LinkInputs | None
    redirects: Path | None
    wikis: tuple[str, ...]


def tokenise(task: Task, prefix: Path) -> dict[str, Any]:
    """Do one unit: its remaining documents, tokenised, into `prefix.parquet`."""
    tokenizer, encoder = open_tokenizer(task.tokenizer)
    finder = open_finder(task.links, task.plan.link, task.redirects, task.wikis) if task.links is not None else None
    schema = arrow_schema("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32").append(pa.field("split", pa.large_string()))
    counts = {"documents": Counter[str](), "tokens": Counter[str](), "lengths": Counter[str](), "languages": Counter[str](), "language_tokens": Counter[str]()}
    totals = {"mentions": 0, "links": 0, "links_with_entity": 0, "characters": 0, "link_seconds": 0.0}
    output = prefix.with_name(f"{prefix.name}.parquet")
    with atomic_path(output) as temporary, pq.ParquetWriter(str(temporary), schema, compression="zstd", compression_level=3) as writer:
        for batch in remaining(task.documents):
            if batch:
                ids = [encoder.encode(record.text) for record in batch]
                mentions = _mentions(batch, ids, tokenizer, finder, totals)
                rows = [_row(*each, task.plan) for each in zip(batch, ids, mentions, strict=True)]
                totals["characters"] += sum(len(record.text) for record in batch)
                _count(rows, counts)
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return {"hash": content_hash(output), **totals, **{name: dict(sorted(counter.items())) for name, counter in counts.items()}}


def _mentions(
    records: list[Record], ids: list[np.ndarray], tokenizer: Tokenizer, finder: MentionFinder | None, totals: dict[str, Any]
) -> list[tuple[list[int], list[int], list[int]]]:
    """(start, end, entity) of each record's mentions in tokens."""
    if finder is None:
        return [([], [], []) for _ in records]
    begin = time.process_time()
    given = finder.given([record.links for record in records])
    spotted = finder.spotted([record.text for record in records])
    found = [
        token_spans(record.text, linked, tokenizer.byte_ends(own), given=sure) if linked or sure else ([], [], [])
        for record, own, sure, linked in zip(records, ids, given, spotted, strict=True)
    ]
    totals["link_seconds"] += time.process_time() - begin
    totals["mentions"] += sum(len(starts) for starts, _, _ in found)
    totals["links"] += sum(len(record.links) for record in records)
    totals["links_with_entity"] += sum(span.entity != NOBODY for spans in given for span in spans)
    return found


def _row(record: Record, ids: np.ndarray, mentions: tuple[list[int], list[int], list[int]], plan: Plan) -> dict[str, Any]:
    starts, ends, entities = mentions
    return {
        "doc_id": record.doc_id,
        "source": record.source,
        "language": record.language,
        "content_id": record.content_id or (hash64_of(record.images) if record.images else hash64(record.text)),
        "tokens": np.concatenate([[BOS_ID], ids, [EOS_ID]]),
        "mention_start": [start + 1 for start in starts],  # the begin mark comes first
        "mention_end": [end + 1 for end in ends],
        "mention_entity": entities,
        "images": record.images,
        "split": record.split or choose_split(record.doc_id, plan.splits, seed=plan.seed),
    }


def _count(rows: list[dict[str, Any]], counts: dict[str, Counter[str]]) -> None:
    for row in rows:
        length = len(row["tokens"])
        counts["documents"][row["split"]] += 1
        counts["tokens"][row["split"]] += length
        counts["lengths"][f"{length.bit_length():02d}"] += 1
        counts["languages"][row["language"]] += 1
        counts["language_tokens"][row["language"]] += length
