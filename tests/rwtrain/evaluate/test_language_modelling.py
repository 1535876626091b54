"""Perplexities against plain float64 computations, one document and one token at a time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.errors import ConfigError, DataError
from rwtrain.evaluate.language_modelling import cut_windows, evaluate_language_modelling
from rwtrain.evaluate.model import EvaluatedModel, untrained
from rwtrain.knowledge.store import EntityStore

DOCUMENTS = 4


@pytest.fixture(scope="module")
def dataset(datasets: tuple[Path, Path]) -> ShardDataset:
    return ShardDataset(datasets[0])


def plain_loss(model: EvaluatedModel, tokens: np.ndarray, seq_len: int) -> list[float]:
    losses = []
    for start in range(0, len(tokens) - 1, seq_len - 1):
        part = torch.tensor(tokens[start : start + seq_len].astype(np.int64))[None]
        with torch.no_grad():
            log_p = model.model(input_ids=part).logits[0].double().log_softmax(-1)
        losses += [-float(log_p[place, part[0, place + 1]]) for place in range(part.shape[1] - 1)]
    return losses


def test_windows_predict_every_token_once() -> None:
    predicted = Counter(
        (window.document, place) for window in cut_windows(np.array([1, 2, 9, 10, 17, 18]), 9) for place in range(window.start + 1, window.stop)
    )
    expected = {(document, place): 1 for document, length in enumerate([1, 2, 9, 10, 17, 18]) for place in range(1, length)}
    assert dict(predicted) == expected


def test_perplexity(model: EvaluatedModel, dataset: ShardDataset) -> None:
    figures = evaluate_language_modelling(model, dataset, max_documents=DOCUMENTS, seq_len=40, compare_untrained=False)
    losses = [loss for document in range(DOCUMENTS) for loss in plain_loss(model, dataset.tokens(document), 40)]
    assert figures["tokens"] == len(losses)
    assert math.isclose(figures["loss"], np.mean(losses), rel_tol=1e-5)
    assert math.isclose(figures["perplexity"], math.exp(np.mean(losses)), rel_tol=1e-4)
    text_bytes = sum(len(model.tokenizer.decode(dataset.tokens(document)).encode()) for document in range(DOCUMENTS))
    assert math.isclose(figures["bits_per_byte"], sum(losses) / math.log(2) / text_bytes, rel_tol=1e-4)


def test_unigram_is_the_add_one_model_of_the_training_shards(model: EvaluatedModel, dataset: ShardDataset) -> None:
    figures = evaluate_language_modelling(model, dataset, train=dataset, max_documents=DOCUMENTS, compare_untrained=False)
    counts = Counter(token for document in range(len(dataset)) for token in dataset.tokens(document).tolist()[1:])
    total = sum(counts.values()) + model.tokenizer.vocab_size
    losses = [-math.log((counts[token] + 1) / total) for document in range(DOCUMENTS) for token in dataset.tokens(document).tolist()[1:]]
    assert math.isclose(figures["unigram_perplexity"], math.exp(np.mean(losses)), rel_tol=1e-9)


def test_untrained_is_a_model_of_the_same_shape(model: EvaluatedModel, dataset: ShardDataset) -> None:
    figures = evaluate_language_modelling(model, dataset, max_documents=2)
    losses = [loss for document in range(2) for loss in plain_loss(untrained(model), dataset.tokens(document), 64)]
    assert math.isclose(figures["untrained_perplexity"], math.exp(np.mean(losses)), rel_tol=1e-4)
    assert not math.isclose(figures["untrained_perplexity"], figures["perplexity"], rel_tol=0.01)


def test_entities_enter_at_the_last_token_of_their_mention(tmp_path: Path, model: EvaluatedModel, dataset: ShardDataset, entity_store: Path) -> None:
    store = EntityStore.open(entity_store)
    document = int(np.argmin(dataset.lengths))
    starts, ends, entities = dataset.mentions(document)
    assert len(ends)
    common = {key: dataset.manifest[key] for key in ("vocab_size", "tokenizer_hash", "entity_store_hash")}
    with ShardWriter(tmp_path, **common) as writer:
        writer.add(
            Document(doc_id="a", tokens=dataset.tokens(document), content_id=1, mention_start=starts, mention_end=ends, mention_entity=entities),
        )
    figures = evaluate_language_modelling(model, ShardDataset(tmp_path), entities=store, seq_len=256, compare_untrained=False)
    tokens = torch.tensor(dataset.tokens(document).astype(np.int64))[None]
    assert tokens.shape[1] <= 256
    with torch.no_grad():
        logits = model.model(
            input_ids=tokens,
            entity_embeds=torch.tensor(np.array(store.vectors[entities]))[None],
            entity_positions=torch.tensor(np.array(ends - 1, np.int64))[None],
        ).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1].double(), tokens[0, 1:])
    assert math.isclose(figures["entity_perplexity"], math.exp(float(loss)), rel_tol=1e-4)
    assert figures["entity_perplexity"] != figures["perplexity"]


def test_seq_len_beyond_the_model(model: EvaluatedModel, dataset: ShardDataset) -> None:
    with pytest.raises(ConfigError, match="2 to 256"):
        evaluate_language_modelling(model, dataset, seq_len=1000)


def test_another_entity_store(tmp_path: Path, model: EvaluatedModel, entity_store: Path) -> None:
    with ShardWriter(tmp_path, vocab_size=model.tokenizer.vocab_size, tokenizer_hash=model.tokenizer.hash, entity_store_hash="other") as writer:
        writer.add(Document(doc_id="a", tokens=np.arange(10), content_id=1))
    with pytest.raises(DataError, match="another entity store"):
        evaluate_language_modelling(model, ShardDataset(tmp_path), entities=EntityStore.open(entity_store))
