"""Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, section A.1.1)."""

from __future__ import annotations

import numpy as np

from data_prep.plan import QualityNode
from data_prep.records import Record, Removed
from data_prep.words import word_hash, words_of

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


class Quality:
    """Remove documents whose words and lines do not look like prose."""

    name = "quality"

    def __init__(self, config: QualityNode) -> None:
        self.config = config
        self.stop_words = np.array([word_hash(word) for word in STOP_WORDS], np.uint64)

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record)) else record for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this document has to go, None if it may stay."""
        return self._words_reason(record) or self._lines_reason(record.text)

    def _words_reason(self, record: Record) -> str | None:
        config, words, text = self.config, words_of(record), record.text
        real = words.folded != 0
        count, total = int(real.sum()), len(words.hash)
        if count < config.min_words:
            return "too few words"
        if count > config.max_words:
            return "too many words"
        mean_length = float((words.end - words.start)[real].mean())
        if mean_length < config.min_mean_word_length:
            return "words too short"
        if mean_length > config.max_mean_word_length:
            return "words too long"
        if text.count("#") > config.max_symbol_word_ratio * total:
            return "too many hash signs"
        if text.count("...") + text.count("…") > config.max_symbol_word_ratio * total:
            return "too many ellipses"
        if float(words.has_letter.sum()) < config.min_alphabetic_words * total:
            return "too few words with letters"
        if record.language == "en" and int(np.isin(self.stop_words, words.hash).sum()) < config.min_stop_words:
            return "too few stop words"
        return None

    def _lines_reason(self, text: str) -> str | None:
        lines = text.splitlines()
        if sum(line.lstrip().startswith(BULLETS) for line in lines) > self.config.max_bullet_lines * len(lines):
            return "too many bullet lines"
        if sum(line.rstrip().endswith(ELLIPSES) for line in lines) > self.config.max_ellipsis_lines * len(lines):
            return "too many lines end with an ellipsis"
        return None
