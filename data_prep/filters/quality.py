"""Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, section A.1.1)."""

from __future__ import annotations

import numpy as np

from data_prep.english_words import english_words, filter_words
from data_prep.plan import QualityNode
from data_prep.records import Record, Removed

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


class Quality:
    """Remove documents whose words and lines do not look like prose."""

    name = "quality"

    def __init__(self, config: QualityNode) -> None:
        self.config = config
        self.configs = config.by_language()
        self.stop_words = {language: np.array([english_words(word).hash[0] for word in words], np.uint64) for language, words in config.stop_words.items()}

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record)) else record for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this document has to go, None if it may stay."""
        config = self.configs.get(record.language, self.config)
        return self._words_reason(record, config) or _lines_reason(record.text, config)

    def _words_reason(self, record: Record, config: QualityNode) -> str | None:
        words, text = filter_words(record), record.text
        real = ~words.is_symbol
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
        stop_words = self.stop_words.get(record.language)
        if stop_words is not None and int(np.isin(stop_words, words.hash).sum()) < config.min_stop_words:
            return "too few stop words"
        return None


def _lines_reason(text: str, config: QualityNode) -> str | None:
    lines = text.splitlines()
    if sum(line.lstrip().startswith(BULLETS) for line in lines) > config.max_bullet_lines * len(lines):
        return "too many bullet lines"
    if sum(line.rstrip().endswith(ELLIPSES) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "too many lines end with an ellipsis"
    return None
