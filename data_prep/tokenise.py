"""Third step: entity links, token ids and splits of one unit's remaining documents."""

from __future__ import annotations

import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.substring import Documents, remaining
from data_prep.fast_encode import FastEncoder
from data_prep.hashing import hash64, hash64_of, unit_interval
from data_prep.linking import open_linker, token_spans
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


def tokenise(arguments: tuple[Plan, Documents, str, bool], prefix: Path) -> dict[str, Any]:
    """Do one unit: its remaining documents, tokenised, into `prefix.parquet`.

    Arguments are (plan, the unit's documents, tokenizer file, whether to link entities).
    """
    plan, documents, tokenizer_path, link = arguments
    tokenizer, encoder = open_tokenizer(tokenizer_path)
    linker = open_linker(plan.link.store) if link and plan.link.store else None
    schema = arrow_schema("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32").append(pa.field("split", pa.large_string()))
    counts = {"documents": Counter[str](), "tokens": Counter[str](), "lengths": Counter[str](), "languages": Counter[str](), "language_tokens": Counter[str]()}
    totals = {"mentions": 0, "characters": 0, "link_seconds": 0.0}
    output = prefix.with_name(f"{prefix.name}.parquet")
    with atomic_path(output) as temporary, pq.ParquetWriter(str(temporary), schema, compression="zstd", compression_level=3) as writer:
        for batch in remaining(documents):
            if batch:
                rows = _rows(batch, plan, tokenizer, encoder, linker, totals)
                _count(rows, counts)
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return {"hash": content_hash(output), **totals, **{name: dict(sorted(counter.items())) for name, counter in counts.items()}}


def _rows(records: list[Record], plan: Plan, tokenizer: Tokenizer, encoder: FastEncoder, linker: Any, totals: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        ids = encoder.encode(record.text)
        starts: list[int] = []
        ends: list[int] = []
        entities: list[int] = []
        if linker is not None:
            begin = time.process_time()
            mentions = [mention for mention in linker.link(record.text, left_context=plan.link.left_context) if mention.score >= plan.link.min_score]
            starts, ends, entities = token_spans(record.text, mentions, tokenizer.byte_ends(ids))
            totals["link_seconds"] += time.process_time() - begin
        totals["mentions"] += len(starts)
        totals["characters"] += len(record.text)
        rows.append(
            {
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
        )
    return rows


def _count(rows: list[dict[str, Any]], counts: dict[str, Counter[str]]) -> None:
    for row in rows:
        length = len(row["tokens"])
        counts["documents"][row["split"]] += 1
        counts["tokens"][row["split"]] += length
        counts["lengths"][f"{length.bit_length():02d}"] += 1
        counts["languages"][row["language"]] += 1
        counts["language_tokens"][row["language"]] += length
