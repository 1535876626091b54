"""Held-out perplexity, beside a unigram model on the same tokens and a model before training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID
from rwtrain.errors import ConfigError, DataError
from rwtrain.evaluate.model import TOKENS_PER_BATCH, EvaluatedModel, batches_by_length, pad_rows, untrained
from rwtrain.knowledge.store import EntityStore


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `stop` of a document; the first is context, all others are predicted."""

    document: int
    start: int
    stop: int


def cut_windows(lengths: np.ndarray, seq_len: int) -> list[Window]:
    """Windows in which every token but a document's first is predicted exactly once; a window begins with the last token of the one before."""
    return [
        Window(document, start, min(start + seq_len, int(length)))
        for document, length in enumerate(lengths)
        for start in range(0, max(int(length) - 1, 0), seq_len - 1)
    ]


def unigram_log_probabilities(train: ShardDataset) -> np.ndarray:
    """log((count + 1) / (tokens + vocabulary)) of every id over the training shards, [V] float64.

    Begin marks are never predicted, so they are not counted; end marks are.
    """
    vocab_size = int(train.manifest["vocab_size"])
    counts = np.zeros(vocab_size, np.int64)
    for start in train.shard_starts[:-1]:
        counts += np.bincount(train.locate(int(start))[0].tokens, minlength=vocab_size)
    counts[BOS_ID] = 0
    return np.log((counts + 1) / (counts.sum() + vocab_size))


@torch.inference_mode()
def total_loss(model: EvaluatedModel, dataset: ShardDataset, windows: list[Window], *, vectors: np.ndarray | None = None, progress: str | None = None) -> float:
    """Σ −log p of the windows' predicted tokens, in nats.

    Args:
        vectors: entity table [entities, E]; the mentions' vectors then enter at their last tokens. None: text alone.
    """
    total = 0.0
    for places in batches_by_length([window.stop - window.start for window in windows], TOKENS_PER_BATCH, progress=progress):
        batch = [windows[place] for place in places]
        rows = [np.asarray(dataset.tokens(window.document, window.start, window.stop), np.int64) for window in batch]
        input_ids, mask = (tensor.to(model.device) for tensor in pad_rows(rows))
        entities = {} if vectors is None else _mentions(dataset, batch, vectors, model.device)
        hidden = model.model.model(input_ids=input_ids, use_cache=False, **entities).last_hidden_state[:, :-1]
        wanted = mask[:, 1:].bool()
        labels = input_ids[:, 1:][wanted]
        total += float(model.model.lm_head(hidden[wanted], labels, torch.ones(len(labels), device=labels.device))[1].double().sum())
    return total


def _mentions(dataset: ShardDataset, batch: list[Window], vectors: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    slots = []
    for window in batch:
        _, ends, entities = dataset.mentions(window.document)
        inside = (ends - 1 >= window.start) & (ends - 1 < window.stop)
        slots.append((ends[inside] - 1 - window.start, entities[inside]))
    width = max(1, max(len(places) for places, _ in slots))
    positions, embeds = np.full((len(batch), width), -1, np.int64), np.zeros((len(batch), width, vectors.shape[1]), np.float32)
    for row, (places, entities) in enumerate(slots):
        positions[row, : len(places)] = places
        embeds[row, : len(places)] = vectors[entities]
    return {"entity_positions": torch.from_numpy(positions).to(device), "entity_embeds": torch.from_numpy(embeds).to(device)}


def evaluate_language_modelling(
    model: EvaluatedModel,
    dataset: ShardDataset,
    *,
    train: ShardDataset | None = None,
    entities: EntityStore | None = None,
    seq_len: int | None = None,
    max_documents: int | None = None,
    compare_untrained: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Perplexity of a model on held-out shards, and of its baselines on the same tokens.

    Args:
        dataset: the held-out shards.
        train: the training shards, for the unigram model; None leaves it out.
        entities: the entity store that the shards' mentions point into; also report the perplexity with their vectors.
        seq_len: longest window in tokens; default: the row length of training; limit: what the model reads.
        max_documents: take only the first ones.

    Returns:
        perplexity, unigram_perplexity, untrained_perplexity, entity_perplexity (None where not asked for), loss (nats per token),
        bits_per_byte, tokens (predicted), documents.

    Raises:
        DataError: another tokenizer or entity store made the shards, or they hold nothing to predict.
        ConfigError: `seq_len` or `entities` do not fit the model.
    """
    model.check_dataset(dataset)
    vectors = None if entities is None else _entity_vectors(model, dataset, entities)
    longest = model.config.max_position_embeddings
    if seq_len is not None and not 2 <= seq_len <= longest:
        raise ConfigError(f"--seq-len {seq_len}: choose 2 to {longest}, the longest segment the model reads.")
    windows = cut_windows(dataset.lengths[:max_documents], seq_len or model.max_tokens)
    if not windows:
        raise DataError(dataset.folder, "no document has two tokens or more", "Give a dataset with text")
    predicted = sum(window.stop - window.start - 1 for window in windows)
    loss = total_loss(model, dataset, windows, progress="perplexity" if progress else None)
    result: dict[str, Any] = {
        "perplexity": math.exp(loss / predicted),
        "unigram_perplexity": None,
        "untrained_perplexity": None,
        "entity_perplexity": None,
        "loss": loss / predicted,
        "bits_per_byte": loss / math.log(2) / max(1, _bytes(model, dataset, windows)),
        "tokens": predicted,
        "documents": len({window.document for window in windows}),
    }
    if train is not None:
        model.check_dataset(train)
        log_p = unigram_log_probabilities(train)
        unigram = -sum(float(log_p[dataset.tokens(window.document, window.start + 1, window.stop)].sum()) for window in windows)
        result["unigram_perplexity"] = math.exp(unigram / predicted)
    if vectors is not None:
        result["entity_perplexity"] = math.exp(total_loss(model, dataset, windows, vectors=vectors, progress="with entities" if progress else None) / predicted)
    if compare_untrained:
        result["untrained_perplexity"] = math.exp(total_loss(untrained(model), dataset, windows, progress="untrained" if progress else None) / predicted)
    return result


def _entity_vectors(model: EvaluatedModel, dataset: ShardDataset, entities: EntityStore) -> np.ndarray:
    if dataset.manifest["entity_store_hash"] != entities.hash:
        raise DataError(dataset.folder, f"its mentions point into another entity store than {entities.folder}", "Give the store that the data was linked with")
    if entities.vectors.shape[1] != model.config.entity_dim:
        problem = f"the vectors of {entities.folder} have {entities.vectors.shape[1]} dimensions, the model reads {model.config.entity_dim}"
        raise ConfigError(f"{problem}. Give the store that the model was trained with, or leave --entities out.")
    return entities.vectors


def _bytes(model: EvaluatedModel, dataset: ShardDataset, windows: list[Window]) -> int:
    ends = (model.tokenizer.byte_ends(dataset.tokens(window.document, window.start + 1, window.stop)) for window in windows)
    return int(sum(end[-1] for end in ends))
