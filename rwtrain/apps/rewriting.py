"""Correcting text: small edits that make the language model find the sentence more probable, by more than they cost.

Language-model correction without annotated data (Bryant & Briscoe 2018): every sentence is compared with itself after one edit (`rwtrain.apps.edits`);
the edits with the largest gains that stand apart are made, and the sentence is read again, until none gains enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rwtrain.apps.edits import Edit, apply, propose
from rwtrain.apps.model import AppModel
from rwtrain.apps.variants import variant_gains
from rwtrain.errors import ConfigError

SENTENCE = re.compile(r"[^.!?\n]+[.!?]*\s*|[.!?\n]\s*")
SENTENCE_TOKENS = 100
ROUNDS = 4
APART = 20  # characters between two edits of one reading: nearer ones would change one another's gain
NEVER = float("inf")
Weigh = Callable[[str], Sequence[Edit]]


@dataclass(frozen=True)
class Costs:
    """What an edit must gain in ln p of the sentence before it is made, by kind; kinds that cost ∞ are not tried.

    Chosen on half of JFLEG's dev set for a model of 7M parameters and the words of its training data. What costs ∞ made sentences worse there.
    """

    spelling: float = 0.0
    form: float = 8.0
    preposition: float = NEVER
    article: float = NEVER
    insertion: float = 1.0
    deletion: float = 8.0
    case: float = 0.0


TOKENIZER_COSTS = Costs(spelling=8.0)
"""For the tokenizer's words: right words are missing among them, so that many would be replaced."""


def default_costs(words: frozenset[str] | None) -> Costs:
    """Costs for a list of words, or for the tokenizer's own without one."""
    return Costs() if words is not None else TOKENIZER_COSTS


@dataclass(frozen=True)
class Correction:
    """A corrected text, and the edits in the order in which they were made (each in characters of the text at that moment)."""

    text: str
    edits: tuple[Edit, ...]


def correct(app: AppModel, text: str, *, costs: Costs | None = None, rounds: int = ROUNDS, words: frozenset[str] | None = None) -> Correction:
    """Correct a text, sentence by sentence.

    Args:
        costs: by default `default_costs`.
        words: lower-case words that are spelled rightly; by default the tokenizer's own.
        rounds: how often a sentence is read, at most.

    Raises:
        ConfigError: the text is empty.
    """
    if not text.strip():
        raise ConfigError("The text is empty: give some words to correct.")
    costs = costs or default_costs(words)
    kinds = frozenset(kind for kind, cost in vars(costs).items() if cost < NEVER)
    done, edits = "", []
    for sentence in SENTENCE.findall(text):
        corrected = correct_sentence(sentence, lambda now: weighed_edits(app, now, words, kinds), costs=costs, rounds=rounds)
        edits += [replace(edit, start=edit.start + len(done), end=edit.end + len(done)) for edit in corrected.edits]
        done += corrected.text
    return Correction(done, tuple(edits))


def correct_sentence(sentence: str, weigh: Weigh, *, costs: Costs, rounds: int = ROUNDS) -> Correction:
    """Make the edits of a sentence that gain more than they cost.

    Args:
        weigh: the edits of a text, with what each adds to ln p; `weighed_edits` of a model.
    """
    text, made = sentence, list[Edit]()
    for _ in range(rounds):
        worth = [replace(edit, gain=edit.gain - getattr(costs, edit.kind)) for edit in weigh(text)]
        chosen = _apart([edit for edit in worth if edit.gain > 0])
        if not chosen:
            break
        for edit in sorted(chosen, key=lambda edit: -edit.start):  # the last first: the others keep their places
            text = apply(text, edit)
            made.append(edit)
    return Correction(text, tuple(made))


def weighed_edits(app: AppModel, text: str, words: frozenset[str] | None = None, kinds: frozenset[str] | None = None) -> list[Edit]:
    """Edits of a sentence, of all or some kinds, with what each adds to ln p; those without prospect are left out.

    A sentence of more than `SENTENCE_TOKENS` has none.
    """
    if len(app.tokenizer.encode(text)) > SENTENCE_TOKENS:
        return []
    proposed = [edit for edit in propose(text, app.words if words is None else words) if kinds is None or edit.kind in kinds]
    gains = variant_gains(app, text, [apply(text, edit) for edit in proposed])
    return [replace(edit, gain=gain) for edit, gain in zip(proposed, gains, strict=True) if gain > 0]


def _apart(edits: Sequence[Edit]) -> list[Edit]:
    """The most gainful edits that stand apart."""
    chosen: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: -edit.gain):
        if all(edit.start >= other.end + APART or other.start >= edit.end + APART for other in chosen):
            chosen.append(edit)
    return chosen
