"""Token ids against sentencepiece itself: the same ids, megabytes per processor second."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.prep_inputs import arguments, crawl, english_texts, report
from data_prep.fast_encode import FastEncoder
from data_prep.tokenizer_training import train_tokenizer
from rwtrain.data.tokenizer import Tokenizer

TEXTS, QUICK_TEXTS = 2500, 400
VOCABULARY = 32_000


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        texts = english_texts(crawl(options, Path(name)), Path(name) / "texts.jsonl", limit=QUICK_TEXTS if options.quick else TEXTS)
        (Path(name) / "tokenizer.model").write_bytes(train_tokenizer(texts[::4], vocab_size=8000 if options.quick else VOCABULARY))
        tokenizer = Tokenizer(name)
    size = sum(len(text.encode()) for text in texts) / 1e6
    begin = time.process_time()
    expected = [tokenizer.processor.encode(text) for text in texts]
    peer_seconds = time.process_time() - begin
    encoder = FastEncoder(tokenizer)
    begin = time.process_time()
    found = [encoder.encode(text) for text in texts]
    seconds = time.process_time() - begin
    equal = sum(one.tolist() == other for one, other in zip(found, expected, strict=True))
    figures = {
        "name": "tokenize",
        "quick": options.quick,
        "texts": len(texts),
        "vocabulary": tokenizer.vocab_size,
        "mb_per_s": size / seconds,
        "peer_mb_per_s": size / peer_seconds,
        "ratio": peer_seconds / seconds,
        "equal_ids": equal / len(texts),
    }
    report("tokenization against sentencepiece", [(key, str(value)) for key, value in figures.items()], figures)


if __name__ == "__main__":
    main()
