"""The ids of sentencepiece itself, several times faster: parts of texts are encoded once and remembered.

A BPE model merges two neighbours only into a piece that exists. Texts are cut between characters of different kinds; if every piece
of the model stays whole under the same cuts, nothing ever merges across them, so a text's ids are the ids of its parts put together.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from rwtrain.data.tokenizer import Tokenizer

SPACE = "\u2581"
# Cuts depend on the two characters beside them only. Fine: words, digits, and runs of other characters, each with the space before
# it. Coarse: whatever stands between spaces and line breaks.
FINE = re.compile(r" ?[^\W\d_]+| ?\d| ?(?:[^\w \n]|_)+|\n| ")
COARSE = re.compile(r" ?[^ \n]+|\n| ")
# Remembered parts; when they are this many, the memory is emptied.
MOST_PARTS = 1 << 18


class FastEncoder:
    """Encode texts with a tokenizer; models that do not fit the rule above are left to sentencepiece.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.processor = tokenizer.processor
        self.part = part_pattern(self.processor.serialized_model_proto())
        self._ids = _Memory(self.processor)

    def encode(self, text: str) -> np.ndarray:
        """Token ids without begin and end marks, [tokens] int32."""
        if self.part is None:
            return np.array(self.processor.encode(text), np.int32)
        parts = self.part.findall(text)
        self._ids.learn(parts)
        return np.fromiter(chain.from_iterable(map(self._ids.__getitem__, parts)), np.int32)


class _Memory(dict[str, list[int]]):
    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.processor = processor

    def learn(self, parts: list[str]) -> None:
        """Encode what is new in one call."""
        new = [part for part in set(parts) if part not in self]
        if new:
            if len(self) >= MOST_PARTS:
                self.clear()
                new = list(set(parts))
            self.update(zip(new, self.processor.encode(new), strict=True))


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
