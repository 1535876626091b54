"""Examples as tokens: one block for a classifier, one for each text of a pair for embeddings, question and window of the context for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.finetune.files import Example
from rwtrain.finetune.tasks import Head

STRIDE = 0.5  # of the context's room in a window: by how much the next window begins later


@dataclass(frozen=True)
class Encoded:
    """One example, or one window of a question's context.

    Attributes:
        segments: token ids, each beginning with the begin mark; one, or two for embeddings.
        target: class or score.
        start, end: first and last token of the answer in the segment; both 0 (the begin mark) where it is not in this window.
        example: its number.
        offsets: (first character, end) in the context of the tokens from `context` on.
    """

    segments: list[np.ndarray]
    target: float = 0.0
    start: int = 0
    end: int = 0
    example: int = 0
    context: int = 0
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return sum(map(len, self.segments))


def encode(examples: Sequence[Example], tokenizer: Tokenizer, *, head: Head, max_tokens: int) -> list[Encoded]:
    """All examples, cut to `max_tokens` in all; a question yields one or more windows."""
    firsts = tokenizer.encode_batch([example.first for example in examples])
    seconds = tokenizer.encode_batch([example.second or "" for example in examples])
    found: list[Encoded] = []
    for number, (example, first, second) in enumerate(zip(examples, firsts, seconds, strict=True)):
        target = float(example.label or 0.0)
        if head == "answer":
            found += _windows(example, number, first, second, tokenizer, max_tokens)
        elif head == "embedding":
            room = max_tokens // 2 - 1
            found.append(Encoded([np.concatenate(([BOS_ID], ids[:room])) for ids in (first, second)], target, example=number))
        else:
            found.append(Encoded([_joined(first, second if example.second is not None else None, max_tokens)], target, example=number))
    return found


def _joined(first: np.ndarray, second: np.ndarray | None, max_tokens: int) -> np.ndarray:
    """Begin mark, first text, and for pairs an end mark and the second text; of a pair that is too long the longer text is cut."""
    if second is None:
        return np.concatenate(([BOS_ID], first[: max_tokens - 1]))
    room = max_tokens - 2
    keep = max(room - len(second), room // 2)
    first = first[:keep]
    return np.concatenate(([BOS_ID], first, [EOS_ID], second[: room - len(first)]))


def _windows(example: Example, number: int, question: np.ndarray, context: np.ndarray, tokenizer: Tokenizer, max_tokens: int) -> list[Encoded]:
    text = example.second or ""
    offsets = _characters(text, tokenizer.byte_ends(context))
    prefix = np.concatenate(([BOS_ID], question[: max_tokens // 2 - 2], [EOS_ID]))
    room = max_tokens - len(prefix)
    step = max(1, int(room * STRIDE))
    answer = _answer_tokens(example, offsets)
    found = []
    for begin in range(0, max(1, len(context) - room + step), step):
        part = slice(begin, begin + room)
        first, last = (place - begin for place in answer) if answer else (-1, -1)
        inside = first >= 0 and last < min(room, len(context) - begin)
        place = (first + len(prefix), last + len(prefix)) if inside else (0, 0)
        found.append(Encoded([np.concatenate((prefix, context[part]))], 0.0, *place, number, len(prefix), offsets[part]))
    return found


def _characters(text: str, byte_ends: np.ndarray) -> np.ndarray:
    """(first character, end) of each token from where it ends in UTF-8, [tokens, 2]."""
    width = np.array([len(character.encode()) for character in text], np.int64)
    ends = np.searchsorted(np.cumsum(width), byte_ends, side="left") + 1
    ends = np.minimum(ends, len(text))
    starts = np.concatenate(([0], ends[:-1]))
    return np.stack((starts, ends), axis=1)


def _answer_tokens(example: Example, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the first answer, None without one."""
    if not example.answers or not len(offsets):
        return None
    text, start = example.answers[0]
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 1], start + len(text), side="left"))
    return min(first, len(offsets) - 1), min(max(first, last), len(offsets) - 1)
