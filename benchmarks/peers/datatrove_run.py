"""What datatrove does with the same input, timed in processor seconds after its start-up. Run in its own environment."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter, URLFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import WarcReader
from datatrove.utils import text as text_module
from datatrove.utils.hashing import HashConfig
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WARM_UP = "One sentence is enough to load what the word tokenizer needs. " * 3


def no_statistics(*_: object, **__: object) -> None:
    """The pipeline's counters are not part of the work compared."""


def make_filters() -> dict:
    made = {
        "repetition": GopherRepetitionFilter(),
        "quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "c4_terminal_punctuation": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }
    for filter_ in made.values():
        filter_.stat_update = no_statistics
    return made


SEEDS = range(1, 6)


def minhash(seed: int = 1) -> MinhashDedupSignature:
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=seed, hash_config=HashConfig(precision=64))
    return MinhashDedupSignature("/tmp/unused-signatures", config=config)


def read_texts(path: str) -> list[str]:
    return [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run_filters(path: str) -> dict:
    """Decisions and seconds per filter; each filter finds its words itself, as it does when it runs alone."""
    texts, filters = read_texts(path), make_filters()
    text_module.split_into_words(WARM_UP)
    for filter_ in filters.values():
        filter_.filter(Document(text=WARM_UP, id="0"))
    found = {}
    for name, filter_ in filters.items():
        kept, seconds = [], 0.0
        for text in texts:
            text_module.split_into_parts.cache_clear()
            begin = time.process_time()
            kept.append(filter_.filter(Document(text=text, id="0")) is True)
            seconds += time.process_time() - begin
        found[name] = {"kept": kept, "seconds": seconds}
    return {**found, "privacy": run_privacy(path)}


def run_privacy(path: str) -> dict:
    """Seconds for replacing e-mail and IP addresses."""
    texts, pii = read_texts(path), PIIFormatter()
    begin = time.process_time()
    for text in texts:
        pii.format(text)
    return {"seconds": time.process_time() - begin}


def run_minhash(path: str) -> dict:
    """Seconds for all signatures with the first seed, and for each seed the pairs of texts that agree in a band."""
    texts, steps = read_texts(path), [minhash(seed) for seed in SEEDS]
    steps[0].get_signature(steps[0].get_shingles(WARM_UP))
    seconds, found = 0.0, []
    all_signatures: list[list] = [[] for _ in steps]
    for text in texts:
        text_module.split_into_parts.cache_clear()
        begin = time.process_time()
        shingles = steps[0].get_shingles(text)
        first = steps[0].get_signature(shingles) if shingles.size else None
        seconds += time.process_time() - begin
        for signatures, step in zip(all_signatures, steps, strict=True):
            signatures.append(first if step is steps[0] or first is None else step.get_signature(shingles))
    for signatures in all_signatures:
        buckets: dict = {}
        for number, signature in enumerate(signatures):
            for band, values in enumerate(signature or []):
                buckets.setdefault((band, tuple(values)), []).append(number)
        found.append(sorted({(one, other) for members in buckets.values() for one in members for other in members if one < other}))
    return {"seconds": seconds, "pairs": found}


def run_chain(path: str) -> dict:
    """The whole chain on a crawl: read, URL filter, extract, filters, personal data, signatures, tokens."""
    reader = WarcReader(str(Path(path).parent), glob_pattern=Path(path).name)
    url, extractor, pii, step = URLFilter(), Trafilatura(timeout=60), PIIFormatter(), minhash()
    filters = [item for name, item in make_filters().items() if name != "c4_terminal_punctuation"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [WARM_UP] * 10, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    text_module.split_into_words(WARM_UP)
    url.filter(Document(text="", id="0", metadata={"url": "http://example.org/"}))
    extractor.extract(f"<html><body><p>{WARM_UP}</p></body></html>")
    begin, extraction, documents, kept, tokens = time.process_time(), 0.0, 0, 0, 0
    for document in reader.run():
        documents += 1
        if url.filter(document) is not True:
            continue
        start = time.process_time()
        try:
            document.text = extractor.extract(document.text)
        except Exception:
            document.text = None
        extraction += time.process_time() - start
        if not document.text or any(item.filter(document) is not True for item in filters):
            continue
        document.text = pii.format(document.text)
        step.get_signature(step.get_shingles(document.text))
        tokens += len(tokenizer.encode(document.text).ids)
        kept += 1
    return {"seconds": time.process_time() - begin, "extraction_seconds": extraction, "documents": documents, "kept": kept, "tokens": tokens}


def run_extraction(path: str) -> dict:
    """Texts and seconds of trafilatura: as datatrove calls it (without its process-wide memory of lines), with its defaults, and in its fast mode."""
    from trafilatura import extract

    pages = [json.loads(line)["html"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    modes = {"precision": {"favor_precision": True, "include_comments": False}, "default": {}, "fast": {"fast": True, "include_comments": False}}
    found = {}
    for name, settings in modes.items():
        extract(pages[0], **settings)
        begin = time.process_time()
        texts = [extract(page, **settings) or "" for page in pages]
        found[name] = {"texts": texts, "seconds": time.process_time() - begin}
    return found


if __name__ == "__main__":
    np.seterr(all="ignore")
    mode, argument = sys.argv[1:3]
    modes = {"filters": run_filters, "privacy": run_privacy, "minhash": run_minhash, "chain": run_chain, "extraction": run_extraction}
    print(json.dumps(modes[mode](argument)))
