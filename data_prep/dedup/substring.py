"""Exact substring deduplication: runs of words that stand earlier in the corpus are cut (Lee et al. 2022, arXiv 2107.06499, section 4.1).

Every window of `min_words` words is hashed; windows are sorted on disk by hash; a window whose hash came before is a repeat,
and all words of repeated windows go. Case, accents and punctuation do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.ngrams import ngram_hashes
from data_prep.dedup.sorted_hashes import SortedHashes, count_ranges, write_sorted
from data_prep.dedup.step import find_repeats
from data_prep.hashing import hash128_hex
from data_prep.plan import SubstringNode
from data_prep.pool import Pool
from data_prep.records import Record, read_records, write_records
from data_prep.words import Words, words_of
from data_prep.work import Unit, code_hash, key_of
from rwtrain.files import content_hash


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of one unit: a records file, its content hash, and which of them are still there."""

    path: Path
    hash: str
    keep: np.ndarray | None


def remaining(documents: Documents) -> Iterator[list[Record]]:
    """The documents that are still there, in batches."""
    position = 0
    for batch in read_records(documents.path):
        keep = None if documents.keep is None else documents.keep[position : position + len(batch)]
        position += len(batch)
        yield batch if keep is None else [record for record, stays in zip(batch, keep, strict=True) if stays]


def cut_repeats(units: Sequence[Documents], config: SubstringNode, pool: Pool) -> tuple[list[Documents], list[dict[str, Any]]]:
    """The units without their repeated runs, and what was done to each."""
    settings = [code_hash(), config.model_dump()]
    keys = [key_of("windows", settings, unit.hash, mask_hash(unit.keep)) for unit in units]
    weights = [unit.path.stat().st_size for unit in units]
    hashing = [Unit("windows", key, weight, str(unit.path), (unit, config)) for unit, key, weight in zip(units, keys, weights, strict=True)]
    counts = pool.run(hash_windows, hashing, label="windows")
    files = [SortedHashes(str(pool.work.path("windows", key, "")), count["windows"]) for key, count in zip(keys, counts, strict=True)]
    ranges = count_ranges(files)
    total = sum(file.items for file in files)
    sorting = [
        Unit("repeats", key_of("repeats", settings, keys, number, ranges), 8 * total // ranges, f"range {number} of windows", (files, 0, number, ranges))
        for number in range(ranges)
    ]
    pool.run(find_repeats, sorting, label="repeats")
    repeats = [str(pool.work.path("repeats", unit.key, ".npy")) for unit in sorting]
    bases = np.cumsum([0] + [file.items for file in files]).tolist()
    cut_keys = [key_of("cut", settings, keys, number) for number in range(len(units))]
    cutting = [
        Unit("cut", key, weight, str(unit.path), (unit, config, repeats, base, base + file.items))
        for key, unit, weight, base, file in zip(cut_keys, units, weights, bases, files, strict=False)
    ]
    results = pool.run(cut, cutting, label="substring")
    return [Documents(pool.work.path("cut", key, ".parquet"), result["hash"], None) for key, result in zip(cut_keys, results, strict=True)], results


def mask_hash(keep: np.ndarray | None) -> str | None:
    """Hash of which documents are still there."""
    return None if keep is None else hash128_hex(keep.tobytes())


def hash_windows(arguments: tuple[Documents, SubstringNode], prefix: Path) -> dict[str, Any]:
    """Do one unit: sorted hashes of all windows of its documents."""
    documents, config = arguments
    parts = [np.zeros(0, np.uint64)]
    for batch in remaining(documents):
        parts += [ngram_hashes(words_of(record).folded, config.min_words) for record in batch]
    hashes = np.concatenate(parts)
    write_sorted(prefix, hashes[None])
    return {"windows": len(hashes)}


def cut(arguments: tuple[Documents, SubstringNode, list[str], int, int], prefix: Path) -> dict[str, Any]:
    """Do one unit: its documents without the windows numbered `start` to `stop` that are repeats."""
    documents, config, repeat_files, start, stop = arguments
    repeated = np.zeros(stop - start, bool)
    for path in repeat_files:
        pairs = np.load(path, mmap_mode="r")
        first, last = np.searchsorted(pairs[:, 0], [start, stop])
        repeated[pairs[first:last, 0] - start] = True
    totals = {"documents": 0, "removed": 0, "cut_documents": 0, "characters": 0, "cut_characters": 0}

    def batches() -> Iterator[list[Record]]:
        position = 0
        for batch in remaining(documents):
            kept = []
            for record in batch:
                words = words_of(record)
                windows = max(int((words.folded != 0).sum()) - config.min_words + 1, 0)
                text = without(record.text, words, repeated[position : position + windows], config.min_words)
                position += windows
                totals["cut_characters"] += len(record.text) - len(text)
                totals["cut_documents"] += text is not record.text
                if text is not record.text and len(text) < config.min_characters:
                    totals["removed"] += 1
                    continue
                totals["documents"] += 1
                totals["characters"] += len(text)
                kept.append(record if text is record.text else record.with_text(text))
            yield kept

    output = prefix.with_name(f"{prefix.name}.parquet")
    write_records(output, batches())
    return {**totals, "hash": content_hash(output)}


def without(text: str, words: Words, repeated: np.ndarray, length: int) -> str:
    """The text without the words of repeated windows; the same object if there are none.

    Args:
        text: the text.
        words: its words.
        repeated: which windows of `length` real words are repeats, [real words - length + 1] bool.
        length: words of a window.
    """
    if not repeated.any():
        return text
    change = np.zeros(len(repeated) + length, np.int64)
    change[np.flatnonzero(repeated)] += 1
    change[np.flatnonzero(repeated) + length] -= 1
    gone = np.cumsum(change)[:-1] > 0
    real = words.folded != 0
    start, end = words.start[real], words.end[real]
    edges = np.flatnonzero(np.diff(np.r_[0, gone.astype(np.int8), 0]))
    parts, position = [], 0
    for first, last in edges.reshape(-1, 2):
        parts.append(text[position : start[first]])
        position = int(end[last - 1])
    parts.append(text[position:])
    return "".join(parts).strip()
