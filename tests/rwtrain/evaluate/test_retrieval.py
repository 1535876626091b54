"""Recall against hand-made rankings, chance against counting, the gallery against a dataset with shared captions and images."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.errors import DataError
from rwtrain.evaluate.model import EvaluatedModel
from rwtrain.evaluate.retrieval import chance_recall_at, evaluate_retrieval, read_gallery, recall_at


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_recall_of_a_known_ranking() -> None:
    candidates = np.eye(12, dtype=np.float32)
    queries = np.stack([np.arange(12, 0, -1), np.arange(12)]).astype(np.float32)  # nearest first: 0, 1, 2, … and 11, 10, 9, …
    assert recall_at(queries, candidates, [{0, 7}, {8}]) == {1: 0.5, 5: 1.0, 10: 1.0}
    assert recall_at(queries, candidates, [{5}, {1}]) == {1: 0.0, 5: 0.0, 10: 0.5}


def test_chance_by_counting_all_orders() -> None:
    relevant = [{0}, {0, 1}, {1, 2, 3}]
    orders = list(itertools.permutations(range(6)))
    expected = np.mean([np.mean([bool(set(order[:5]) & found) for order in orders]) for found in relevant])
    chance = chance_recall_at(6, relevant)
    assert math.isclose(chance[5], expected, rel_tol=1e-9)
    assert chance[10] == 1.0
    assert math.isclose(chance[1], (1 + 2 + 3) / 18, rel_tol=1e-9)


def test_gallery_joins_rows_by_content(tmp_path: Path) -> None:
    rows = [(1, 5, 10), (1, 6, 10), (2, 5, 20), (3, 7, 30), (4, 7, 30)]  # image, caption, content id
    with ShardWriter(tmp_path, vocab_size=100, tokenizer_hash="t") as writer:
        for number, (level, token, content) in enumerate(rows):
            writer.add(Document(doc_id=str(number), tokens=np.array([1, token, 2]), content_id=content, images=[png(level)]))
    gallery = read_gallery(ShardDataset(tmp_path))
    assert [text.tolist() for text in gallery.texts] == [[1, 5], [1, 6], [1, 7]]
    assert len(gallery.images) == 4
    assert gallery.texts_of == [{0, 1}, {0}, {2}, {2}]
    assert gallery.images_of == [{0, 1}, {0}, {2, 3}]


def test_evaluate(model: EvaluatedModel, datasets: tuple[Path, Path]) -> None:
    figures = evaluate_retrieval(model, ShardDataset(datasets[1]))
    assert (figures["images"], figures["texts"]) == (10, 10)
    assert figures["image_to_text"]["recall@10"] == 1.0
    assert math.isclose(figures["image_to_text"]["chance@1"], 0.1)
    assert 0 <= figures["text_to_image"]["recall@1"] <= figures["text_to_image"]["recall@5"] <= 1


def test_text_without_images(model: EvaluatedModel, datasets: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="record 0: a document has no image"):
        evaluate_retrieval(model, ShardDataset(datasets[0]))
