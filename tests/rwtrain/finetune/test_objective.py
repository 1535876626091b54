"""Packed rows give each example what it gets alone from the exported head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwtrain.config.finetune import FinetuneBatchConfig
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, MASK_ID, Tokenizer
from rwtrain.evaluate.model import pad_rows
from rwtrain.finetune.encoding import Encoded, encode
from rwtrain.finetune.files import Example
from rwtrain.finetune.loading import ExampleLoader
from rwtrain.finetune.objective import FinetuningTask
from rwtrain.finetune.packed import PackedQuestionAnswering, PackedSequenceClassification
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering, RefinedWebForSequenceClassification

CONTEXT = "Zoë Müller was born in Köln — in 1815, not in 1816 — and died in London."
EXAMPLES = [
    Example("0", "one of them", "another one of them", 1.0, [("1815", CONTEXT.index("1815"))]),
    Example("1", "a much longer text, with more words than the others have " * 3, "short", 0.0),
    Example("2", "x", "y", 2.0),
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(tokenizer_file)


def config(tokenizer: Tokenizer, **more: Any) -> RefinedWebConfig:
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "embedding_dim": 16}
    return RefinedWebConfig(vocab_size=tokenizer.vocab_size, **shape, initializer_range=0.3, classifier_dropout=0.0, **more)


def run(task: FinetuningTask, model: Any, loader: ExampleLoader) -> torch.Tensor:
    batch = loader.micro_batch(0, 0)
    return task(model, batch, task.counts(batch)).total


def loader_of(encoded: list[Encoded], *, hide_rate: float = 0.0) -> ExampleLoader:
    return ExampleLoader(encoded, FinetuneBatchConfig(seq_len=128, rows=4), rank=0, world_size=1, seed=0, hide_rate=hide_rate)


def mean_over_batch(loader: ExampleLoader, losses: list[float]) -> float:
    """The mean of known losses over the examples of the first batch (an epoch may begin anew inside it)."""
    return float(np.mean([losses[number] for number in loader.micro_batch(0, 0).samples["example"]]))


@pytest.mark.parametrize("labels", [3, 1])
def test_classifier(tokenizer: Tokenizer, labels: int) -> None:
    shape = config(tokenizer, num_labels=labels)
    model = PackedSequenceClassification(shape).eval()
    alone = RefinedWebForSequenceClassification(shape).eval()
    alone.load_state_dict(model.state_dict())
    encoded = encode(EXAMPLES, tokenizer, head="classifier", max_tokens=128)
    losses = []
    for item, example in zip(encoded, EXAMPLES, strict=True):
        gold = torch.tensor([int(example.label or 0)]) if labels > 1 else torch.tensor([float(example.label or 0)])
        losses.append(float(alone(input_ids=torch.from_numpy(item.segments[0].astype(np.int64))[None], labels=gold).loss.detach()))
    loader = loader_of(encoded)
    task = FinetuningTask("classify" if labels > 1 else "regress", "classifier", slots=loader.slots, score_range=(0.0, 5.0), replicas=1)
    assert float(run(task, model, loader).detach()) == pytest.approx(mean_over_batch(loader, losses), rel=1e-4)


def test_embeddings_are_those_of_get_text_features(tokenizer: Tokenizer) -> None:
    model = RefinedWebForPreTraining(config(tokenizer)).eval()
    encoded = encode(EXAMPLES, tokenizer, head="embedding", max_tokens=128)
    losses = []
    for item, example in zip(encoded, EXAMPLES, strict=True):
        vectors = model.get_text_features(*pad_rows(item.segments)).detach().double()
        losses.append(float((vectors[0] @ vectors[1] - float(example.label or 0) / 5) ** 2))
    loader = loader_of(encoded)
    task = FinetuningTask("regress", "embedding", slots=loader.slots, score_range=(0.0, 5.0), replicas=1)
    total = run(task, model, loader)
    assert float(total.detach()) == pytest.approx(mean_over_batch(loader, losses), rel=1e-4)
    total.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_answers(tokenizer: Tokenizer) -> None:
    shape = config(tokenizer)
    model = PackedQuestionAnswering(shape).eval()
    alone = RefinedWebForQuestionAnswering(shape).eval()
    alone.load_state_dict(model.state_dict())
    questions = [Example(item.id, item.first[:20], CONTEXT, None, item.answers) for item in EXAMPLES]
    encoded = encode(questions, tokenizer, head="answer", max_tokens=48)
    assert len(encoded) > len(questions)  # overlapping windows
    answered = [item for item in encoded if item.start]
    assert answered
    for item in answered:
        first, last = item.start - item.context, item.end - item.context
        assert CONTEXT[item.offsets[first][0] : item.offsets[last][1]].strip() == "1815"
    losses = []
    for item in encoded:
        places = torch.tensor([item.start]), torch.tensor([item.end])
        loss = alone(input_ids=torch.from_numpy(item.segments[0].astype(np.int64))[None], start_positions=places[0], end_positions=places[1]).loss
        losses.append(float(loss.detach()))
    loader = loader_of([Encoded(item.segments, 0.0, item.start, item.end, number) for number, item in enumerate(encoded)])
    task = FinetuningTask("answer", "answer", slots=loader.slots, score_range=(0.0, 5.0), replicas=1)
    assert float(run(task, model, loader).detach()) == pytest.approx(mean_over_batch(loader, losses), rel=1e-4)


def test_pairs_that_are_too_long_lose_the_longer_text_first(tokenizer: Tokenizer) -> None:
    (item,) = encode([EXAMPLES[1]], tokenizer, head="classifier", max_tokens=30)
    tokens = item.segments[0].tolist()
    assert len(tokens) == 30
    assert tokens[0] == BOS_ID
    assert tokens[tokens.index(EOS_ID) + 1 :] == tokenizer.encode("short").tolist()


def test_hidden_tokens_differ_between_epochs_and_spare_the_marks(tokenizer: Tokenizer) -> None:
    loader = loader_of(encode(EXAMPLES * 20, tokenizer, head="classifier", max_tokens=128), hide_rate=0.4)
    first, again, later = (loader.micro_batch(step, 0).input_ids for step in (0, 0, 1))
    assert torch.equal(first, again)
    plain = loader_of(encode(EXAMPLES * 20, tokenizer, head="classifier", max_tokens=128)).micro_batch(0, 0).input_ids
    share = ((first == MASK_ID) & (plain != 3)).sum() / (plain != 3).sum()
    assert 0.3 < float(share) < 0.45
    assert torch.equal(first == BOS_ID, plain == BOS_ID)
    assert not torch.equal(first == MASK_ID, later == MASK_ID)


def test_ranks_and_accumulation_share_the_global_batch(tokenizer: Tokenizer) -> None:
    encoded = encode(EXAMPLES * 20, tokenizer, head="classifier", max_tokens=128)
    whole = loader_of(encoded).micro_batch(1, 0)
    batch = FinetuneBatchConfig(seq_len=128, rows=4, accumulation=2)
    parts = [ExampleLoader(encoded, batch, rank=rank, world_size=2, seed=0, hide_rate=0.0).micro_batch(1, index) for index in (0, 1) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
    assert float(sum(part.valid.sum() for part in parts)) == float(whole.valid.sum())
