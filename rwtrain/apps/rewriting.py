"""Correcting text: small edits that make the language model find the sentence more probable, by more than they cost.

Language-model correction without annotated data (Bryant & Briscoe 2018): every sentence is compared with itself after one edit (spelling, article,
preposition, form of a word); the edit with the largest gain is made, then the next, until none gains enough. The lexicon is the tokenizer's own
whole words, so a folder needs nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rwtrain.apps.model import AppModel
from rwtrain.data.tokenizer import BOS_ID
from rwtrain.errors import ConfigError

ARTICLES = ("a", "an", "the")
PREPOSITIONS = ("in", "on", "at", "for", "to", "of", "with", "from", "by", "about", "into", "than", "as")
FORMS = (("is", "are", "was", "were", "be", "been", "being"), ("has", "have", "had", "having"), ("do", "does", "did", "done", "doing"))
CONFUSED = (("their", "there", "they're"), ("then", "than"), ("its", "it's"), ("to", "too", "two"), ("your", "you're"), ("lose", "loose"), ("affect", "effect"),
            ("who", "whom", "which", "that"), ("much", "many"), ("this", "these"), ("that", "those"), ("a", "an"), ("he", "she", "it", "they"))  # fmt: skip
INSERTED = ("the", "a", "an", "to")
WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*\s*|[.!?\n]\s*")
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SHORTEST = 3
SENTENCE_TOKENS = 100


@dataclass(frozen=True)
class Costs:
    """What an edit must gain in ln p of the sentence before it is made, by kind."""

    spelling: float = 4.0
    form: float = 4.0
    preposition: float = 5.0
    article: float = 4.0
    insertion: float = 3.0
    deletion: float = 8.0
    case: float = 1.0


@dataclass(frozen=True)
class Edit:
    """Characters `start` to `end` of a text become `replacement`; `gain` is what that adds to ln p of the sentence, less its cost."""

    start: int
    end: int
    replacement: str
    kind: str
    gain: float = 0.0


@dataclass(frozen=True)
class Correction:
    """A corrected text, and the edits in the order in which they were made (each in characters of the text at that moment)."""

    text: str
    edits: tuple[Edit, ...]


def correct(app: AppModel, text: str, *, costs: Costs | None = None, rounds: int = 6) -> Correction:
    """Correct a text, sentence by sentence.

    Args:
        rounds: most edits of a sentence.

    Raises:
        ConfigError: the text is empty.
    """
    if not text.strip():
        raise ConfigError("The text is empty: give some words to correct.")
    done, edits = "", []
    for sentence in SENTENCE.findall(text):
        corrected = correct_sentences(app, [sentence], costs=costs, rounds=rounds)[0]
        edits += [Edit(edit.start + len(done), edit.end + len(done), edit.replacement, edit.kind, edit.gain) for edit in corrected.edits]
        done += corrected.text
    return Correction(done, tuple(edits))


def correct_sentences(
    app: AppModel, sentences: Sequence[str], *, costs: Costs | None = None, rounds: int = 6, score: Callable[[Sequence[str]], Sequence[float]] | None = None
) -> list[Correction]:
    """Correct sentences, each by itself; all are scored together, which is faster than one after the other.

    Args:
        score: ln p of texts; by the model if left out.
    """
    costs, lexicon = costs or Costs(), lexicon_of(app)
    texts, made = list(sentences), [list[Edit]() for _ in sentences]
    open_sentences = [number for number, text in enumerate(texts) if len(app.tokenizer.encode(text)) <= SENTENCE_TOKENS]
    for _ in range(rounds):
        proposals = {number: list(propose(texts[number], lexicon)) for number in open_sentences}
        rows = [texts[number] for number in open_sentences]
        rows += [apply(texts[number], edit) for number in open_sentences for edit in proposals[number]]
        scores = iter(score(rows) if score is not None else log_probabilities(app, rows))
        now = {number: next(scores) for number in open_sentences}
        improved = []
        for number in open_sentences:
            gains = [next(scores) - now[number] - getattr(costs, edit.kind) for edit in proposals[number]]
            if gains and max(gains) > 0:
                edit = proposals[number][int(np.argmax(gains))]
                made[number].append(Edit(edit.start, edit.end, edit.replacement, edit.kind, max(gains)))
                texts[number] = apply(texts[number], edit)
                improved.append(number)
        open_sentences = improved
        if not open_sentences:
            break
    return [Correction(text, tuple(edits)) for text, edits in zip(texts, made, strict=True)]


def apply(text: str, edit: Edit) -> str:
    """The text after one edit."""
    return text[: edit.start] + edit.replacement + text[edit.end :]


def log_probabilities(app: AppModel, texts: Sequence[str], *, progress: str | None = None) -> list[float]:
    """ln p of whole texts."""
    rows = [np.concatenate(([BOS_ID], ids)).astype(np.int64) for ids in app.tokenizer.encode_batch(list(texts))]
    return [float(found.sum(dtype=np.float64)) for found in app.token_log_probabilities(rows, progress=progress)]


@lru_cache(maxsize=4)
def _lexicon(pieces: tuple[str, ...]) -> frozenset[str]:
    return frozenset(piece[1:] for piece in pieces if piece.startswith("\u2581") and piece[1:].isalpha() and piece[1:].islower())


def lexicon_of(app: AppModel) -> frozenset[str]:
    """Lower-case words that are one piece of the tokenizer."""
    processor = app.tokenizer.processor
    return _lexicon(tuple(processor.id_to_piece(number) for number in range(app.tokenizer.vocab_size)))


def propose(text: str, lexicon: frozenset[str]) -> Iterator[Edit]:
    """Edits worth scoring."""
    words = list(WORD.finditer(text))
    for place, match in enumerate(words):
        start, end, word = match.start(), match.end(), match[0]
        lower, first = word.lower(), place == 0
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
    if word not in lexicon and len(word) >= SHORTEST and not named and word.isalpha():
        yield from (("spelling", other) for other in sorted(misspellings(word, lexicon) - found))


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
    once = _edits(word)
    found = once & lexicon
    if not found and len(word) >= 6:
        found = {other for near in once for other in _edits(near) if other in lexicon}
    return frozenset(other for other in found if len(other) >= SHORTEST - 1)


def _edits(word: str) -> set[str]:
    splits = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    found = {left + right[1:] for left, right in splits if right}
    found |= {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    found |= {left + letter + right[1:] for left, right in splits if right for letter in ALPHABET}
    return found | {left + letter + right for left, right in splits for letter in ALPHABET}
