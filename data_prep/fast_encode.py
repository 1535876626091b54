"""The ids of sentencepiece itself, several times faster: parts of texts are encoded once and remembered.

A BPE model merges two neighbours only into a piece that exists. Texts are cut between characters of different kinds; if every piece
of the model stays whole under the same cuts, nothing ever merges across them, so a text's ids are the ids of its parts put together.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numba import njit
from sentencepiece import sentencepiece_model_pb2

from data_prep.words import CODE_POINTS, HASH_START, HASH_STEP, code_points
from rwtrain.data.tokenizer import Tokenizer

SPACE = "\u2581"
# Cuts depend on the two characters beside them only. Fine: words, digits, and runs of other characters, each with the space before
# it. Coarse: whatever stands between spaces and line breaks.
FINE = re.compile(r" ?[^\W\d_]+| ?\d| ?(?:[^\w \n]|_)+|\n| ")
COARSE = re.compile(r" ?[^ \n]+|\n| ")
# Size of the table of remembered parts (a power of two) and of the store of their ids; when either is full, both are emptied.
SLOTS, STORED_IDS = 1 << 19, 1 << 21
LONGEST_REMEMBERED = 64
NEWLINE, SPACE_CODE = 10, 32
LETTER, DIGIT, OTHER = 1, 2, 3


class FastEncoder:
    """Encode texts with a tokenizer; models that do not fit the rule above are left to sentencepiece.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.processor = tokenizer.processor
        self.part = part_pattern(self.processor.serialized_model_proto())
        self.classes = _fine_classes() if self.part is FINE else np.full(CODE_POINTS, OTHER, np.uint8)
        self._forget()

    def _forget(self) -> None:
        self.keys = np.zeros(SLOTS, np.uint64)
        self.places = np.zeros((SLOTS, 2), np.int32)  # first stored id, number of ids
        self.stored = np.zeros(STORED_IDS, np.int32)
        self.used_slots = self.used_ids = 0

    def encode(self, text: str) -> np.ndarray:
        """Token ids without begin and end marks, [tokens] int32."""
        if self.part is None:
            return np.array(self.processor.encode(text), np.int32)
        codes = code_points(text)
        ids = np.empty(4 * len(codes) + 4, np.int32)  # a character has at most four bytes, and a byte at most one id
        count = position = 0
        while True:
            count, position, end, key = _encode_known(codes, position, self.classes, self.keys, self.places, self.stored, ids, count)
            if position == len(codes):
                return ids[:count].copy()
            part = self.processor.encode(text[position:end])
            ids[count : count + len(part)] = part
            count += len(part)
            if end - position <= LONGEST_REMEMBERED:
                self._remember(key, part)
            position = end

    def _remember(self, key: int, part: list[int]) -> None:
        if 2 * self.used_slots >= SLOTS or self.used_ids + len(part) > STORED_IDS:
            self._forget()
        slot = key % SLOTS
        while self.keys[slot]:
            slot = (slot + 1) % SLOTS
        self.keys[slot] = key
        self.places[slot] = self.used_ids, len(part)
        self.stored[self.used_ids : self.used_ids + len(part)] = part
        self.used_slots += 1
        self.used_ids += len(part)


@lru_cache(maxsize=1)
def _fine_classes() -> np.ndarray:
    """Which of the kinds of `FINE` each code point is, [0x110000] uint8."""
    table = np.full(CODE_POINTS, OTHER, np.uint8)
    characters = "".join(map(chr, range(CODE_POINTS)))
    for pattern, kind in ((r"[^\W\d_]+", LETTER), (r"\d+", DIGIT)):
        for match in re.finditer(pattern, characters):
            table[match.start() : match.end()] = kind
    return table


@njit(cache=True, nogil=True)
def _encode_known(codes, position, classes, keys, places, stored, ids, count):
    """Write the ids of remembered parts from `position` on.

    Returns (ids written, beginning, end and key of the first part that is not remembered); the beginning is the text's end if all are.
    """
    mask = np.uint64(keys.size - 1)
    while position < codes.size:
        end = position + 1
        value = (HASH_START ^ np.uint64(codes[position])) * HASH_STEP
        code = codes[position]
        if code != NEWLINE and not (code == SPACE_CODE and (end == codes.size or codes[end] == SPACE_CODE or codes[end] == NEWLINE)):
            if code == SPACE_CODE:
                code = codes[end]
                value = (value ^ np.uint64(code)) * HASH_STEP
                end += 1
            kind = classes[code]
            while kind != DIGIT and end < codes.size and classes[codes[end]] == kind and codes[end] != SPACE_CODE and codes[end] != NEWLINE:
                value = (value ^ np.uint64(codes[end])) * HASH_STEP
                end += 1
        value ^= value >> np.uint64(32)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
        value |= np.uint64(1)
        slot = value & mask
        while keys[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            return count, position, end, value
        first = places[slot, 0]
        for index in range(places[slot, 1]):
            ids[count] = stored[first + index]
            count += 1
        position = end
    return count, position, position, np.uint64(0)


def part_pattern(serialized: bytes) -> re.Pattern[str] | None:
    """The pattern of the parts whose ids can be put together, for a serialised sentencepiece model; None if there is none."""
    model = sentencepiece_model_pb2.ModelProto.FromString(serialized)  # type: ignore[attr-defined]
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    if not (
        trainer.model_type == trainer.BPE
        and normalizer.name == "identity"
        and not normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        and not trainer.treat_whitespace_as_suffix
        and not any(piece.type == piece.USER_DEFINED for piece in model.pieces)
    ):
        return None
    pieces = [piece.piece.replace(SPACE, " ") for piece in model.pieces if piece.type == piece.NORMAL]
    return next((pattern for pattern in (FINE, COARSE) if all(pattern.fullmatch(piece) for piece in pieces)), None)
