"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

from __future__ import annotations

from data_prep.english_words import filter_words
from data_prep.filters.repetition import count_repeated
from data_prep.filters.terminal import TERMINAL_PUNCTUATION
from data_prep.plan import FineWebNode
from data_prep.records import Record, Removed


class FineWeb:
    """Remove documents whose lines look like lists, menus or copies."""

    name = "fineweb"

    def __init__(self, config: FineWebNode) -> None:
        self.config = config
        self.configs = config.by_language()

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [Removed(reason) if (reason := self.reason(record)) else record for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this document has to go, None if it may stay."""
        config, text = self.configs.get(record.language, self.config), record.text
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return "no text"
        if sum(line[-1] in TERMINAL_PUNCTUATION for line in lines) < config.min_punctuated_lines * len(lines):
            return "too few lines end with punctuation"
        if sum(len(line) <= config.short_line_characters for line in lines) > config.max_short_lines * len(lines):
            return "too many short lines"
        if count_repeated(lines)[1] > config.max_repeated_line_characters * (len(text) - text.count("\n")):
            return "characters in repeated lines"
        if text.count("\n") > config.max_line_breaks_per_word * len(filter_words(record).hash):
            return "too many line breaks"
        return None
