"""RefinedWeb's line-wise corrections (Penedo et al. 2023, arXiv 2306.01116, table G.2)."""

from __future__ import annotations

import re

from data_prep.plan import LinesNode
from data_prep.records import Record, Removed

SHORT_LINE_WORDS = 10
SENTENCE_ENDS = (".", "!", "?", ":", "。", "！", "？", "…", "।", "؟")
ONLY_NUMBERS = re.compile(r"[\d\W_]+", re.ASCII)
COUNTER = re.compile(
    r"[\d.,]+\s?[kmb]?\+?\s+(likes?|views?|comments?|shares?|followers?|following|retweets?|replies|reply|votes?|points?|reviews?|ratings?|subscribers?|answers?|downloads?)",
    re.IGNORECASE,
)
AT_START = re.compile(
    r"(sign[ -]?in|sign[ -]?up|log[ -]?in|register now|subscribe|share (this|on|via)|click here|skip to|jump to|back to top|advertisement)\b", re.IGNORECASE
)
AT_END = re.compile(r"(read more|see more|show more|load more|continue reading|learn more|more info|click here)\W*$", re.IGNORECASE)
ANYWHERE = re.compile(
    r"\bitems? in (your )?(cart|basket|bag)\b|\badd to (cart|basket|bag|wishlist)\b|\baccept (all )?cookies\b|\ball rights reserved\b", re.IGNORECASE
)


class Lines:
    """Remove lines that are not part of the text; remove the document if they held too many of its words."""

    name = "lines"

    def __init__(self, config: LinesNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Record | Removed:
        lines = record.text.split("\n")
        keep = [not self.is_noise(line) for line in lines]
        if all(keep):
            return record
        total = len(record.text.split())
        gone = sum(len(line.split()) for line, stays in zip(lines, keep, strict=True) if not stays)
        if gone > self.config.max_removed_words * total:
            return Removed("too many words in removed lines")
        return record.with_text("\n".join(line for line, stays in zip(lines, keep, strict=True) if stays).strip())

    def is_noise(self, line: str) -> bool:
        """Whether a line is a counter, a button, a menu entry or shouting; empty lines are not."""
        line = line.strip()
        if not line:
            return False
        if line.isascii() and ONLY_NUMBERS.fullmatch(line):
            return True
        letters = sum(map(str.isalpha, line)) if line != line.lower() else 0
        if letters and sum(map(str.isupper, line)) > self.config.max_uppercase * letters and letters > 1:
            return True
        if COUNTER.fullmatch(line):
            return True
        words = line.count(" ") + 1
        if words == 1:
            return self.config.single_words and not line.endswith(SENTENCE_ENDS) and not line.startswith(("-", "#"))
        return words <= SHORT_LINE_WORDS and bool(AT_START.match(line) or AT_END.search(line) or ANYWHERE.search(line))
