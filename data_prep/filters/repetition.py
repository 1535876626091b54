"""Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, Table A1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numba import njit

from data_prep.plan import RepetitionNode
from data_prep.records import Record, Removed
from data_prep.words import words_of

PARAGRAPH_BREAK = re.compile(r"\n{2,}")
LINE_BREAK = re.compile(r"\n+")


class Repetition:
    """Remove documents that repeat their lines, paragraphs or n-grams of words too much."""

    name = "repetition"

    def __init__(self, config: RepetitionNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record)) else record for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this document has to go, None if it may stay."""
        config, text = self.config, record.text
        count, characters, total = count_repeated(PARAGRAPH_BREAK.split(text.strip()))
        if count > config.duplicate_paragraph_fraction * total:
            return "repeated paragraphs"
        if characters > config.duplicate_paragraph_characters * len(text):
            return "characters in repeated paragraphs"
        count, characters, total = count_repeated(LINE_BREAK.split(text))
        if count > config.duplicate_line_fraction * total:
            return "repeated lines"
        if characters > config.duplicate_line_characters * len(text):
            return "characters in repeated lines"
        words = words_of(record)
        lengths = (words.end - words.start).astype(np.int64)
        for n, limit in config.top_ngram_characters.items():
            if top_ngram_characters(words.hash, lengths, n) > limit * len(text):
                return f"most frequent {n}-gram"
        for n, limit in config.duplicate_ngram_characters.items():
            if repeated_ngram_characters(words.hash, lengths, n) > limit * len(text):
                return f"repeated {n}-grams"
        return None


def count_repeated(parts: Sequence[str]) -> tuple[int, int, int]:
    """(Parts that repeat an earlier one, their characters, all parts)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters, len(parts)


@njit(cache=True, nogil=True)
def _ngram_hash(hashes, first, n):
    value = np.uint64(n)
    for index in range(first, first + n):
        value = (value ^ hashes[index]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return value | np.uint64(1)


@njit(cache=True, nogil=True)
def _table_size(count):
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def top_ngram_characters(hashes, lengths, n):
    """Characters of the most frequent n-gram with single spaces, times its count; the first one wins a tie."""
    total = hashes.size - n + 1
    if total <= 0:
        return 0
    size = _table_size(total)
    keys = np.zeros(size, np.uint64)
    counts = np.zeros(size, np.int32)
    firsts = np.zeros(size, np.int32)
    mask = np.uint64(size - 1)
    for index in range(total):
        key = _ngram_hash(hashes, index, n)
        slot = key & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot] = key
            firsts[slot] = index
        counts[slot] += 1
    best = 0
    best_first = total
    for slot in range(size):
        if counts[slot] > best or (counts[slot] == best and best > 0 and firsts[slot] < best_first):
            best = counts[slot]
            best_first = firsts[slot]
    characters = n - 1
    for index in range(best_first, best_first + n):
        characters += lengths[index]
    return characters * best


@njit(cache=True, nogil=True)
def repeated_ngram_characters(hashes, lengths, n):
    """Characters in n-grams that repeat an earlier one; after a repeated n-gram the search goes on behind it."""
    total = hashes.size - n + 1
    if total <= 0:
        return 0
    size = _table_size(total)
    keys = np.zeros(size, np.uint64)
    mask = np.uint64(size - 1)
    repeated = 0
    index = 0
    while index < total:
        key = _ngram_hash(hashes, index, n)
        slot = key & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot] = key
            index += 1
        else:
            for inside in range(index, index + n):
                repeated += lengths[inside]
            index += n
    return repeated
