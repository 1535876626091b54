"""The sentencepiece tokenizer as the data path sees it: ids, special ids, and where each token ends in the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from rwtrain.errors import DataError
from rwtrain.files import content_hash

# Reserved pieces and their ids; every tokenizer trained here has them in this order.
SPECIAL_PIECES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>", "image": "<image>"}
UNK_ID, BOS_ID, EOS_ID, PAD_ID, MASK_ID, IMAGE_ID = range(len(SPECIAL_PIECES))


class Tokenizer:
    """A sentencepiece model trained with identity normalisation and byte fallback, so that no byte of the text is lost.

    Args:
        path: a sentencepiece `.model` file, or a folder with `tokenizer.model` in it.

    Raises:
        DataError: the file is missing, is no sentencepiece model, or lacks the reserved pieces.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "tokenizer.model" if path.is_dir() else path
        if not self.path.is_file():
            raise DataError(self.path, "no tokenizer here", "Train one with `rwtrain tokenizer train`, or correct the path")
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (RuntimeError, OSError) as error:
            raise DataError(self.path, f"not a sentencepiece model ({error})", "Train one with `rwtrain tokenizer train`") from error
        self.vocab_size = int(self.processor.vocab_size())
        found = [self.processor.id_to_piece(index) for index in range(min(len(SPECIAL_PIECES), self.vocab_size))]
        if found != list(SPECIAL_PIECES.values()):
            raise DataError(self.path, f"its first pieces are {found}, not {list(SPECIAL_PIECES.values())}", "Train one with `rwtrain tokenizer train`")
        self.hash = content_hash(self.path)
        self._piece_bytes = np.array([self._bytes_of(index) for index in range(self.vocab_size)], np.int64)

    def _bytes_of(self, index: int) -> int:
        if self.processor.is_byte(index):
            return 1
        if index < len(SPECIAL_PIECES) or self.processor.is_control(index):
            return 0
        return len(self.processor.id_to_piece(index).replace("\u2581", " ").encode())

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text` without begin and end marks, [tokens] int32."""
        return np.array(self.processor.encode(text), np.int32)

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[np.ndarray]:
        """`encode` for many texts."""
        return [np.array(ids, np.int32) for ids in self.processor.encode(list(texts), num_threads=threads)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; reserved pieces vanish."""
        return self.processor.decode([int(index) for index in ids])

    def byte_ends(self, ids: np.ndarray) -> np.ndarray:
        """Where each token ends in the UTF-8 encoding of the text, [tokens] int64 (reserved pieces are 0 bytes long)."""
        return np.cumsum(self._piece_bytes[ids])
