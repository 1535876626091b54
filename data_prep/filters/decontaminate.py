"""Decontamination: documents that share long runs of words with evaluation sets are removed (Brown et al. 2020, appendix C: 13-grams)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data_prep.dedup.ngrams import ngram_hashes
from data_prep.inputs import find_files
from data_prep.plan import DecontaminateNode
from data_prep.records import Record, Removed
from data_prep.source_plan import TextSource
from data_prep.sources import text as text_source
from data_prep.sources.spans import whole_file
from data_prep.words import split_words, words_of
from rwtrain.errors import DataError


class Decontaminate:
    """Remove documents that hold an n-gram of words of an evaluation set, without regard to case, accents and punctuation."""

    name = "decontaminate"

    def __init__(self, config: DecontaminateNode) -> None:
        self.config = config
        self.forbidden = forbidden_ngrams(config.model_dump_json())

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed("evaluation data") if self.is_contaminated(record) else record for record in records]

    def is_contaminated(self, record: Record) -> bool:
        """Whether the document holds a forbidden n-gram."""
        found = ngram_hashes(words_of(record).folded, self.config.ngram)
        place = np.searchsorted(self.forbidden, found)
        return bool((self.forbidden[np.minimum(place, len(self.forbidden) - 1)] == found).any()) if len(self.forbidden) else False


@lru_cache(maxsize=1)
def forbidden_ngrams(config_json: str) -> np.ndarray:
    """Sorted hashes of all n-grams in the evaluation files; shorter texts have none.

    Raises:
        DataError: a file is missing, or a row cannot be read: an evaluation set must not be read by halves.
    """
    config = DecontaminateNode.model_validate_json(config_json)
    parts = [np.zeros(0, np.uint64)]
    for path in config.paths:
        for column in config.columns:
            source = TextSource(kind="text", name="evaluation", paths=[path], format=config.format, text_column=column)
            for name, label in find_files([path], source="decontaminate"):
                for record in text_source.read(source, whole_file(name, label)):
                    if not isinstance(record, Record):
                        raise DataError(record.file, record.reason, "Repair the evaluation file, or correct decontaminate.columns", record=record.record)
                    parts.append(ngram_hashes(split_words(record.text).folded, config.ngram))
    return np.unique(np.concatenate(parts))
