"""Personal data in text: addresses and numbers are replaced by fixed words."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep import privacy_rules as rules
from data_prep.plan import PrivacyNode
from data_prep.privacy_scan import AT, COLONS, IBAN, NUMBER, SPELLED_AT, places
from data_prep.records import Record

KINDS = ("email", "ip", "iban", "card", "phone")
CARD_DIGITS = 13


class Privacy:
    """Replace personal data; no document is removed."""

    name = "privacy"

    def __init__(self, config: PrivacyNode) -> None:
        self.words = {kind: word for kind in KINDS if (word := getattr(config, kind)) is not None}

    def __call__(self, records: list[Record]) -> list[Record]:
        return [record if (text := self.scrub(record.text)) == record.text else record.with_text(text) for record in records]

    def scrub(self, text: str) -> str:
        """The text with e-mail addresses, public IP addresses, IBANs, card numbers and telephone numbers replaced."""
        parts, position = [], 0
        for start, stop, kind in find(text):
            if kind in self.words:
                parts += [text[position:start], self.words[kind]]
                position = stop
        return "".join([*parts, text[position:]]) if parts else text


def find(text: str) -> list[tuple[int, int, str]]:
    """(First character, one past the last, kind) of the personal data of a text, ascending, not overlapping; kinds as in `PrivacyNode`."""
    candidates = places(text)
    if not candidates:
        return []
    # Where two overlap, the kind that is checked more strictly stays: it comes first in KINDS.
    ranked = sorted((KINDS.index(kind), start, stop) for start, stop, kind in _all(text, candidates))
    taken: list[tuple[int, int, str]] = []
    for rank, start, stop in ranked:
        if all(stop <= other_start or start >= other_stop for other_start, other_stop, _ in taken):
            taken.append((start, stop, KINDS[rank]))
    return sorted(taken)


def _all(text: str, candidates: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, str]]:
    for kind, start, stop in candidates:
        if kind == AT:
            if (span := rules.email_span(text, start)) is not None:
                yield *span, "email"
        elif kind == SPELLED_AT:
            for match in rules.EMAIL_SPELLED.finditer(text, max(0, start - 66), min(len(text), start + 160)):
                if match.start() < start < match.end():
                    yield match.start(), match.end(), "email"
        elif kind == COLONS:
            if text[start:stop].endswith(":") and not text[start:stop].endswith("::"):
                stop -= 1  # the colon of a sentence
            if rules.is_public_ipv6(text[start:stop]) and not text[stop : stop + 1].isalnum():
                yield start, stop, "ip"
        elif kind == IBAN:
            if (span := rules.iban_span(text, start)) is not None:
                yield *span, "iban"
        elif kind == NUMBER:
            yield from _numbers(text, start, stop)


def _numbers(text: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    """What a run of digits and separators holds; patterns look two characters around it."""
    low, high = max(0, start - 2), min(len(text), stop + 2)
    run = text[start:stop]
    if run.count(".") >= 3:
        for match in rules.IPV4.finditer(text, low, high):
            if rules.is_public_ipv4(text, match.start(), match.end()):
                yield match.start(), match.end(), "ip"
    digits = sum(map(str.isdigit, run))
    if digits >= CARD_DIGITS:
        for match in rules.CARD.finditer(text, low, high):
            if rules.is_card(match[0]):
                yield match.start(), match.end(), "card"
    if digits >= rules.MIN_PHONE_DIGITS:
        found = False
        for match in rules.PHONE.finditer(text, low, high):
            if rules.is_phone(text, match.start(), match.end()):
                found = True
                yield match.start(), match.end(), "phone"
        begin = start - 1 if start and text[start - 1] in "+(" else start
        if not found and rules.PHONE_WORD.search(text, max(0, begin - 24), begin):
            announced = rules.ANNOUNCED_PHONE.match(text, begin, high)
            if announced is not None and rules.is_phone(text, announced.start(), announced.end()):
                yield announced.start(), announced.end(), "phone"
