"""C4's rules (Raffel et al. 2020, section 2.2, and their published code): lines that are not prose go, then pages with too little left."""

from __future__ import annotations

import re

from data_prep.plan import C4Node
from data_prep.records import Record, Removed

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
END_PUNCTUATION = (".", "?", "!", '"', "'")
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
# A sentence ends at terminal punctuation that is not inside a number, an abbreviation with inner stops or an address.
SENTENCE_END = re.compile(r"(?<![.\s])[.!?…。！？]+(?=[\s\"'”’)\]]|$)")
LAST_SENTENCE = re.compile(r"[^.!?…。！？\s\"'”’)\]]\s*[\"'”’)\]]*$")


class C4:
    """Drop lines and documents as C4 does."""

    name = "c4"

    def __init__(self, config: C4Node) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Record | Removed:
        lines: list[str] = []
        sentences = 0
        for raw in record.text.splitlines():
            line = raw.strip()
            words = line.split()
            if len(line) > self.config.max_word_characters and any(len(word) > self.config.max_word_characters for word in words):
                continue
            if "[" in line:
                line = CITATION.sub("", line)
            if self.config.terminal_punctuation and (not line.endswith(END_PUNCTUATION) or line.endswith("...")):
                continue
            if len(words) < self.config.min_line_words:
                continue
            lowered = line.lower()
            if self.config.lorem_ipsum and "lorem ipsum" in lowered:
                return Removed("lorem ipsum")
            if "javascript" in lowered:
                continue
            if self.config.curly_bracket and "{" in line:
                return Removed("curly bracket")
            if POLICY.search(lowered):
                continue
            sentences += count_sentences(line)
            lines.append(line)
        if sentences < self.config.min_sentences:
            return Removed("too few sentences")
        text = "\n".join(lines).strip()
        return record if text == record.text else record.with_text(text)


def count_sentences(line: str) -> int:
    """Sentences of a line by their punctuation; words after the last stop are a sentence too."""
    return len(SENTENCE_END.findall(line)) + bool(LAST_SENTENCE.search(line))
