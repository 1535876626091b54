"""Train a sentencepiece tokenizer that loses no byte of a text; the same text gives the same model."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator

import sentencepiece

from rwtrain.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPECIAL_PIECES, UNK_ID
from rwtrain.errors import RWTrainError

LONGEST_LINE = 8192
TOO_HIGH = re.compile(r"Vocabulary size too high.*?<= (\d+)", re.DOTALL)
BYTE_PIECES = 256


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, character_coverage: float = 0.9995) -> bytes:
    """A serialised sentencepiece BPE model with identity normalisation, byte fallback and the reserved pieces of `rwtrain.data.tokenizer`.

    A corpus too small for `vocab_size` pieces gets as many as it allows, with a warning.

    Raises:
        RWTrainError: there is no text to train on.
    """
    lines = list(_lines(texts))
    if not lines:
        raise RWTrainError("There is no text to train a tokenizer on. Add documents, or loosen the filters.")
    try:
        return _train(lines, vocab_size, character_coverage)
    except RuntimeError as error:
        too_high = TOO_HIGH.search(str(error))
        if too_high is None:
            raise RWTrainError(f"sentencepiece cannot train on this text: {error}") from error
        possible = int(too_high[1])
    print(f"warning: the text is too small for {vocab_size} pieces; the tokenizer gets {possible}. Add text, or lower tokenizer.vocab_size.", file=sys.stderr)
    return _train(lines, possible, character_coverage)


def _train(lines: list[str], vocab_size: int, character_coverage: float) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        max_sentence_length=8 * LONGEST_LINE,
        num_threads=1,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        unk_piece=SPECIAL_PIECES["unk"],
        bos_piece=SPECIAL_PIECES["bos"],
        eos_piece=SPECIAL_PIECES["eos"],
        pad_piece=SPECIAL_PIECES["pad"],
        control_symbols=[SPECIAL_PIECES["mask"], SPECIAL_PIECES["image"]],
        minloglevel=2,
    )
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            line = line.replace("\0", "")
            for start in range(0, len(line), LONGEST_LINE):
                yield line[start : start + LONGEST_LINE]
