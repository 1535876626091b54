"""Imported once by the fork server, so that all workers inherit compiled code and tables instead of making their own."""

from __future__ import annotations

from data_prep import ingest, tokenise  # noqa: F401
from data_prep.dedup.minhash import band_hashes
from data_prep.extraction import Extract
from data_prep.filters.repetition import Repetition
from data_prep.language import identify
from data_prep.plan import ExtractNode, RepetitionNode
from data_prep.records import Record
from data_prep.words import split_words

SENTENCE = "One short sentence is enough to compile everything that the filters need, again and again."

band_hashes(split_words(SENTENCE), ngram=5, bands=1, rows=1)
Repetition(RepetitionNode()).reason(Record("", "", text=SENTENCE))
identify(SENTENCE)
Extract(ExtractNode())([Record("", "", raw=f"<p>{SENTENCE}".encode())])
