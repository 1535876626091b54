"""Unicode repair: mojibake undone by ftfy where it is found, then composed characters, plain line breaks and no control characters."""

from __future__ import annotations

import re
import unicodedata

import ftfy
from ftfy.badness import badness

from data_prep.plan import UnicodeNode
from data_prep.records import Record

CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb\ud800-\udfff]")
# UTF-8 that was read as a one-byte encoding shows a lead byte's character before a continuation byte's; this finds such pairs
# fast, so that ftfy's thorough look is taken at few texts.
HIGH = "\x80-\xbf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ€"
HINT = re.compile(f"[Â-ß][{HIGH}]|[à-ô][{HIGH}]{{2}}|[РСГвЂ][{HIGH}ЂЃѓЉЊЌЋЏђљњќћџЎўЈҐЁЄЇІіґёєјЅѕї]")
LINE_BREAK = re.compile("\r\n?|\x0c|\x85|\u2028|\u2029")


class Unicode:
    """Repair the text; no document is removed."""

    name = "unicode"

    def __init__(self, config: UnicodeNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record]:
        return [record if (text := self.repair(record.text)) == record.text else record.with_text(text) for record in records]

    def repair(self, text: str) -> str:
        """The repaired text; plain text comes back as it is."""
        if self.config.mojibake and not text.isascii() and HINT.search(text) and badness(text):
            text = "\n".join(ftfy.fix_encoding(line) if badness(line) else line for line in text.split("\n"))
        text = CONTROL.sub("", LINE_BREAK.sub("\n", text))
        return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
