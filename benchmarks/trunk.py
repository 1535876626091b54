"""Training speed of the trunk against transformers' Llama with SDPA: useful tokens per second at equal shape, data, optimiser, threads and loss.

Documents are the paragraphs of WikiText-2. Every step all variants learn from the same documents, with the same initial weights and the
same normalisation, so their losses are equal up to rounding and only the time differs:
  llama_padded       one document a row, rows of a micro-batch padded to the longest: what Trainer does with documents
  llama_grouped      the same with documents of similar length together (Trainer's group_by_length)
  llama_packed       Llama on packed rows, segments told apart by position_ids
  llama_packed_head  Llama's layers on packed rows, this project's head, which never holds all logits
  ours               this project's model
Steps of the variants alternate, so that what else the machine does falls on all.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rwtrain.data.packing import pack
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining, RefinedWebHead

PIECES = 8000  # of the tokenizer
SHAPE = {
    "vocab_size": PIECES,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
DOCUMENTS_PER_MICRO_BATCH = 8


@dataclass
class Step:
    """One optimiser step's data in both forms; `labels` count the same tokens in both."""

    documents: list[np.ndarray]
    rows: dict[str, torch.Tensor]
    labels: int


@dataclass
class Variant:
    """A model with its optimiser, and how it turns a step into scalars to differentiate."""

    model: torch.nn.Module
    losses: Callable[[torch.nn.Module, Step], Iterator[torch.Tensor]]
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def train(self, step: Step) -> None:
        """One step; its wall seconds and its mean loss are noted."""
        began, total = time.perf_counter(), 0.0
        self.optimizer.zero_grad()
        for loss in self.losses(self.model, step):
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - began)
        self.loss.append(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with wikitext2/train.txt.gz")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: 30, with --quick 8)")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens of a row (default: 512)")
    parser.add_argument("--rows", type=int, default=8, help="packed rows of a step (default: 8)")
    parser.add_argument("--vocab-size", type=int, default=PIECES, help=f"of the models; the text uses {PIECES:,} of them (default: {PIECES})")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    SHAPE["vocab_size"] = options.vocab_size
    count = options.steps or (8 if options.quick else 30)
    steps, fill = make_steps(options.data / "wikitext2" / "train.txt.gz", steps=count + 1, rows=options.rows, seq_len=options.seq_len)
    variants = make_variants()
    for number, step in enumerate(steps):
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            variants[name].train(step)
    report(variants, steps, fill=fill, options=options)


def make_steps(path: Path, *, steps: int, rows: int, seq_len: int) -> tuple[list[Step], float]:
    """The steps' data, and the share of the packed rows' places that hold a token."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        paragraphs = [line.strip() for line in stream if len(line) > 40 and not line.startswith(" =")]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs[:4000]),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=True,
        pad_id=PAD_ID,
        control_symbols=["<mask>", "<image>"],
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    order = np.random.default_rng(0).permutation(len(paragraphs))[: max(4000, steps * rows * seq_len // 80)]
    tokens = [np.array([BOS_ID, *ids, EOS_ID], np.int64) for ids in processor.encode([paragraphs[index] for index in order])]
    plan = pack(np.array([len(document) for document in tokens]), seq_len)
    chosen = np.random.default_rng(1).permutation(len(plan))[: steps * rows].reshape(steps, rows)
    made = []
    for numbers in chosen:
        packed = {name: torch.full((rows, seq_len), value, dtype=torch.long) for name, value in (("input_ids", PAD_ID), ("labels", -100), ("position_ids", 0))}
        documents = []
        for row, number in enumerate(numbers):
            place = 0
            for segment in range(plan.row_offsets[number], plan.row_offsets[number + 1]):
                start, length = int(plan.start[segment]), int(plan.length[segment])
                document = tokens[int(plan.document[segment])][start : start + length]
                part = slice(place, place + length)
                packed["input_ids"][row, part] = torch.from_numpy(document)
                packed["labels"][row, place + 1 : place + length] = torch.from_numpy(document[1:])
                packed["position_ids"][row, part] = torch.arange(length)
                documents.append(document)
                place += length
            packed["position_ids"][row, place:] = torch.arange(seq_len - place)
        shuffled = np.random.default_rng(2).permutation(len(documents))
        made.append(Step([documents[index] for index in shuffled], packed, int((packed["labels"] != -100).sum())))
    return made, float(np.mean([(step.rows["input_ids"] != PAD_ID).float().mean() for step in made]))


def make_variants() -> dict[str, Variant]:
    """All variants, with the same initial weights."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE, attn_implementation="sdpa", rms_norm_eps=1e-6, pad_token_id=PAD_ID))
    weights = llama.state_dict()
    ours = RefinedWebForPreTraining._from_config(RefinedWebConfig(**SHAPE, attn_implementation="sdpa"))
    ours.load_state_dict(weights, strict=False)

    def copy() -> LlamaForCausalLM:
        made = LlamaForCausalLM._from_config(llama.config)
        made.load_state_dict(weights)
        return made.train()

    with_head = copy()
    head = RefinedWebHead(SHAPE["hidden_size"], SHAPE["vocab_size"], bias=False)
    head.weight = with_head.lm_head.weight
    with_head.lm_head = head
    return {
        "llama_padded": Variant(copy(), padded),
        "llama_grouped": Variant(copy(), grouped),
        "llama_packed": Variant(copy(), packed_llama),
        "llama_packed_head": Variant(with_head, packed_llama_head),
        "ours": Variant(ours.train(), packed_ours),
    }


def padded(model: torch.nn.Module, step: Step) -> Iterator[torch.Tensor]:
    yield from _padded(model, step.documents, step.labels)


def grouped(model: torch.nn.Module, step: Step) -> Iterator[torch.Tensor]:
    yield from _padded(model, sorted(step.documents, key=len), step.labels)


def _padded(model: torch.nn.Module, documents: list[np.ndarray], labels: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(documents), DOCUMENTS_PER_MICRO_BATCH):
        part = [torch.from_numpy(document) for document in documents[start : start + DOCUMENTS_PER_MICRO_BATCH]]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=PAD_ID)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(document) for document in part], batch_first=True)
        yield model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), num_items_in_batch=labels).loss


def packed_llama(model: torch.nn.Module, step: Step) -> Iterator[torch.Tensor]:
    yield model(**step.rows, num_items_in_batch=step.labels, use_cache=False).loss


def packed_llama_head(model: torch.nn.Module, step: Step) -> Iterator[torch.Tensor]:
    hidden = model.model(input_ids=step.rows["input_ids"], position_ids=step.rows["position_ids"], use_cache=False).last_hidden_state
    labels = step.rows["labels"][:, 1:]
    wanted = labels != -100
    yield model.lm_head(hidden[:, :-1][wanted], labels[wanted], torch.full((step.labels,), 1 / step.labels))[0]


def packed_ours(model: torch.nn.Module, step: Step) -> Iterator[torch.Tensor]:
    ids = step.rows["input_ids"]
    nothing = torch.full_like(ids, -1)
    yield model(ids, step.rows["position_ids"], nothing, step.rows["labels"], torch.full(ids.shape, 1 / step.labels), nothing, 0).token_loss


def report(variants: dict[str, Variant], steps: list[Step], *, fill: float, options: argparse.Namespace) -> None:
    """Tokens per second from the median of the seconds per token; the first step warms up."""
    speed = {
        name: 1 / statistics.median(seconds / step.labels for seconds, step in zip(variant.seconds[1:], steps[1:], strict=True))
        for name, variant in variants.items()
    }
    real = sum(len(document) for step in steps for document in step.documents)
    places = sum(
        max(map(len, part)) * len(part)
        for step in steps
        for part in (step.documents[start : start + DOCUMENTS_PER_MICRO_BATCH] for start in range(0, len(step.documents), DOCUMENTS_PER_MICRO_BATCH))
    )
    gap = max(abs(ours - theirs) for ours, theirs in zip(variants["ours"].loss, variants["llama_padded"].loss, strict=True))
    print(f"packed rows {fill:.1%} full, padded rows {real / places:.1%}; {sum(step.labels for step in steps) / len(steps):,.0f} labels a step")
    for name, value in speed.items():
        print(f"{name:20} {value:9,.0f} tokens/s   loss {variants[name].loss[0]:.5f} to {variants[name].loss[-1]:.5f}")
    figures = {
        "name": "trunk",
        "quick": options.quick,
        "steps": len(steps) - 1,
        "seq_len": options.seq_len,
        "threads": options.threads,
        "vocab_size": options.vocab_size,
        "tokens_per_s": speed,
        "tokens_per_s_ratio": speed["ours"] / speed["llama_padded"],
        "ratio_to_grouped": speed["ours"] / speed["llama_grouped"],
        "ratio_to_packed": speed["ours"] / speed["llama_packed"],
        "packing": speed["llama_packed"] / speed["llama_padded"],
        "head": speed["llama_packed_head"] / speed["llama_packed"],
        "rest": speed["ours"] / speed["llama_packed_head"],
        "loss_gap": gap,
        "packed_fill": fill,
        "padded_fill": real / places,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
