"""Texts of the evidence runs: reading the data sets, one tokenizer for a run, linked shards, and loss on held-out rows."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.hashing import hash64
from data_prep.linking import token_spans
from data_prep.tokenizer_training import train_tokenizer
from rwtrain.data.shards import MANIFEST, Document, ShardDataset, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.files import atomic_path

ARTICLE = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)


def wikitext_articles(data: Path, split: str) -> list[str]:
    """The articles of WikiText-2 as distributed: words and <unk> marks between spaces, a paragraph a line."""
    with gzip.open(data / "wikitext2" / f"{split}.txt.gz", "rt", encoding="utf-8") as stream:
        text = stream.read()
    starts = [match.start() for match in ARTICLE.finditer(text)] + [len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(starts)]


def word_count(texts: Iterable[str]) -> int:
    """Words and line ends, as word-level perplexities of WikiText-2 count them."""
    return sum(len(text.split()) + text.count("\n") for text in texts)


def make_tokenizer(path: Path, texts: Callable[[], Iterable[str]], *, vocab_size: int) -> Tokenizer:
    """A tokenizer trained on `texts()`, or the one that an earlier run left at `path`."""
    if not path.is_file():
        model = train_tokenizer(texts(), vocab_size=vocab_size)
        with atomic_path(path) as temporary:
            temporary.write_bytes(model)
    return Tokenizer(path)


Spans = Sequence[Any]
"""Mentions of one text, as a linker returns them: start, end (characters), entity (row in the store)."""


def write_shards(
    folder: Path, texts: Sequence[str], tokenizer: Tokenizer, *, mentions: Sequence[Spans] | None = None, store_hash: str | None = None
) -> ShardDataset:
    """Text shards of `texts`, in order, with their mentions; those that an earlier run finished are reused."""
    if not (folder / MANIFEST).is_file():
        with ShardWriter(folder, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash, entity_store_hash=store_hash) as writer:
            for number, (text, ids) in enumerate(zip(texts, tokenizer.encode_batch(texts), strict=True)):
                starts, ends, entities = token_spans(text, mentions[number], tokenizer.byte_ends(ids)) if mentions is not None else ([], [], [])
                writer.add(
                    Document(
                        doc_id=str(number),
                        tokens=np.concatenate(([BOS_ID], ids, [EOS_ID])),
                        content_id=hash64(text),
                        language="en",
                        mention_start=[start + 1 for start in starts],  # the begin mark comes first
                        mention_end=[end + 1 for end in ends],
                        mention_entity=entities,
                    )
                )
    return ShardDataset(folder)


def rows_of(dataset: ShardDataset, seq_len: int) -> torch.Tensor:
    """All of a dataset's tokens in rows [rows, seq_len] int64, document behind document; the rest that fills no row is left out."""
    flat = np.concatenate([np.asarray(dataset.tokens(index), np.int64) for index in range(len(dataset))])
    return torch.from_numpy(flat[: len(flat) // seq_len * seq_len].reshape(-1, seq_len).copy())


@torch.no_grad()
def mean_loss(model: Any, rows_BS: torch.Tensor, *, batch: int = 32) -> float:
    """Mean −log p, in nats, of every token of the rows but the first, for any model with `model.model` and `model.lm_head`."""
    total = 0.0
    for part in rows_BS.split(batch):
        part = part.to(next(model.parameters()).device)
        hidden = model.model(input_ids=part, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden).float()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return total / rows_BS[:, 1:].numel()
