"""Small edits of a text that a writer may have meant: spelling, form of a word, article, preposition, capital.

What is a word, a lexicon says: the tokenizer's own whole words, so that an exported folder needs nothing else, or any set of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

ARTICLES = ("a", "an", "the")
PREPOSITIONS = ("in", "on", "at", "for", "to", "of", "with", "from", "by", "about", "into", "than", "as")
FORMS = (("is", "are", "was", "were", "be", "been", "being"), ("has", "have", "had", "having"), ("do", "does", "did", "done", "doing"))
CONFUSED = (("their", "there", "they're"), ("then", "than"), ("its", "it's"), ("to", "too", "two"), ("your", "you're"), ("lose", "loose"), ("affect", "effect"),
            ("who", "whom", "which", "that"), ("much", "many"), ("this", "these"), ("that", "those"), ("a", "an"), ("he", "she", "it", "they"))  # fmt: skip
INSERTED = ("the", "a", "an", "to")
WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
SHORTEST = 3
LONGEST_TWICE = 16  # letters of a word that two edits are tried on: there are some 3,000 n² of them


@dataclass(frozen=True)
class Edit:
    """Characters `start` to `end` of a text become `replacement`; `gain` is what that adds to ln p of the sentence, less its cost."""

    start: int
    end: int
    replacement: str
    kind: str
    gain: float = 0.0


def apply(text: str, edit: Edit) -> str:
    """The text after one edit."""
    return text[: edit.start] + edit.replacement + text[edit.end :]


def propose(text: str, lexicon: frozenset[str]) -> Iterator[Edit]:
    """Edits worth scoring."""
    words = list(WORD.finditer(text))
    for place, match in enumerate(words):
        start, end, word = match.start(), match.end(), match[0]
        lower, first = word.lower().replace("’", "'"), place == 0
        for kind, other in _replacements(lower, lexicon, named=word[0].isupper() and not first):
            yield Edit(start, end, other.capitalize() if word[0].isupper() else other, kind)
        if word == "i" or (first and word[0].islower() and not text[:start].strip()):
            yield Edit(start, end, word.capitalize(), "case")
        behind = re.match(r"\s+", text[end:])
        if lower in (*ARTICLES, *PREPOSITIONS) and behind is not None and not first:
            yield Edit(start, end + behind.end(), "", "deletion")
        if not first and words[place - 1][0].lower() not in INSERTED and lower not in INSERTED and text[:start].endswith(" "):
            for other in INSERTED:
                if (other == "an") == (lower[0] in "aeiou") or other in ("the", "to"):
                    yield Edit(start, start, f"{other} ", "insertion")


def _replacements(word: str, lexicon: frozenset[str], *, named: bool) -> Iterator[tuple[str, str]]:
    """(kind, other word) of words that a writer may have meant."""
    if word in ARTICLES:
        yield from (("article", other) for other in ARTICLES if other != word)
    if word in PREPOSITIONS:
        yield from (("preposition", other) for other in PREPOSITIONS if other != word)
    found = {other for group in (*FORMS, *CONFUSED) if word in group for other in group if other != word}
    found |= {other for other in inflections(word) if other in lexicon}
    yield from (("form", other) for other in sorted(found))
    if word not in lexicon and len(word) >= SHORTEST and not named:
        parted = {f"{word[:place]} {word[place:]}" for place in range(1, len(word)) if word[:place] in lexicon and word[place:] in lexicon}
        yield from (("spelling", other) for other in sorted((misspellings(word, lexicon) | parted) - found))


def inflections(word: str) -> set[str]:
    """Regular endings put on or taken off."""
    stems = {word}
    for ending, repairs in (("ies", ("y",)), ("es", ("", "e")), ("s", ("",)), ("ied", ("y",)), ("ed", ("", "e")), ("ing", ("", "e")), ("ly", ("",))):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stems |= {word[: -len(ending)] + repair for repair in repairs}
    found = set(stems)
    for stem in stems:
        base = stem[:-1] if stem.endswith("e") else stem
        found |= {stem + "s", stem + "es", base + "ed", base + "ing", stem + "ly", stem + "d"}
        if stem.endswith("y"):
            found |= {stem[:-1] + "ies", stem[:-1] + "ied"}
    return found - {word}


@lru_cache(maxsize=10_000)
def misspellings(word: str, lexicon: frozenset[str]) -> frozenset[str]:
    """Words of the lexicon that one deletion, transposition, replacement or insertion leads to; two of them for long words, if one finds nothing."""
    if len(word) > _longest(lexicon) + 2:  # two edits are too few; and there would be millions of them
        return frozenset()
    once = _edits(word)
    found = once & lexicon
    if not found and 6 <= len(word) <= LONGEST_TWICE:
        found = {other for near in once for other in _edits(near) if other in lexicon}
    return frozenset(other for other in found if len(other) >= SHORTEST - 1)


@lru_cache(maxsize=4)
def _longest(lexicon: frozenset[str]) -> int:
    return max(map(len, lexicon), default=0)


def _edits(word: str) -> set[str]:
    splits = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    found = {left + right[1:] for left, right in splits if right}
    found |= {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    found |= {left + letter + right[1:] for left, right in splits if right for letter in ALPHABET}
    return found | {left + letter + right for left, right in splits for letter in ALPHABET}
