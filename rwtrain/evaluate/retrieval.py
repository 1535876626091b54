"""Image-text retrieval: how often the right caption, or the right image, is among the k nearest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import EOS_ID
from rwtrain.errors import DataError
from rwtrain.evaluate.model import EvaluatedModel

CUTOFFS = (1, 5, 10)
QUERIES_PER_BATCH = 1024


@dataclass
class Gallery:
    """The different images and captions of a dataset, and which belong together.

    Attributes:
        images, texts: encoded images, and caption tokens without end mark, each once.
        texts_of, images_of: for every image the numbers of its captions, and the other way round.
    """

    images: list[bytes] = field(default_factory=list)
    texts: list[np.ndarray] = field(default_factory=list)
    texts_of: list[set[int]] = field(default_factory=list)
    images_of: list[set[int]] = field(default_factory=list)


def read_gallery(dataset: ShardDataset, *, max_documents: int | None = None) -> Gallery:
    """Collect a dataset's images and captions; those whose rows share a content id belong together.

    Raises:
        DataError: a document has no image.
    """
    gallery = Gallery()
    image_numbers: dict[int, int] = {}
    text_numbers: dict[bytes, int] = {}
    by_content: dict[int, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for document in range(min(len(dataset), max_documents or len(dataset))):
        shard, row = dataset.locate(document)
        files = shard.images(row)
        if not files:
            raise DataError(dataset.folder, "a document has no image", "Give a dataset of images with captions", record=shard.doc_id(row))
        tokens = np.asarray(dataset.tokens(document), np.int64)
        tokens = tokens[tokens != EOS_ID]
        image = image_numbers.setdefault(xxhash.xxh3_64_intdigest(files[0]), len(image_numbers))
        text = text_numbers.setdefault(tokens.tobytes(), len(text_numbers))
        if image == len(gallery.images):
            gallery.images.append(files[0])
        if text == len(gallery.texts):
            gallery.texts.append(tokens)
        images, texts = by_content[int(shard.content_id[row])]
        images.add(image)
        texts.add(text)
    gallery.texts_of = [set() for _ in gallery.images]
    gallery.images_of = [set() for _ in gallery.texts]
    for images, texts in by_content.values():
        for image in images:
            gallery.texts_of[image] |= texts
        for text in texts:
            gallery.images_of[text] |= images
    return gallery


def recall_at(queries: np.ndarray, candidates: np.ndarray, relevant: list[set[int]]) -> dict[int, float]:
    """Share of queries with a relevant candidate among the k nearest by inner product, for each cutoff k.

    Args:
        queries: [Q, C]; candidates: [N, C]; relevant: for every query the numbers of its candidates.
    """
    depth = min(max(CUTOFFS), len(candidates))
    hits = np.zeros((len(queries), depth), bool)
    for start in range(0, len(queries), QUERIES_PER_BATCH):
        scores = queries[start : start + QUERIES_PER_BATCH] @ candidates.T
        nearest = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        nearest = np.take_along_axis(nearest, np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1, kind="stable"), 1)
        for row, found in enumerate(nearest, start):
            hits[row] = [candidate in relevant[row] for candidate in found.tolist()]
    return {cutoff: float(hits[:, :cutoff].any(1).mean()) for cutoff in CUTOFFS}


def chance_recall_at(candidates: int, relevant: list[set[int]]) -> dict[int, float]:
    """Expected recall of a random order: 1 − C(N − m, k) / C(N, k) for a query with m of N relevant candidates."""
    sizes = np.array([len(found) for found in relevant])
    result = {}
    for cutoff in CUTOFFS:
        miss = np.ones(len(sizes))
        for drawn in range(min(cutoff, candidates)):
            miss *= np.clip((candidates - sizes - drawn) / (candidates - drawn), 0, 1)
        result[cutoff] = float((1 - miss).mean())
    return result


def evaluate_retrieval(model: EvaluatedModel, dataset: ShardDataset, *, max_documents: int | None = None, progress: bool = False) -> dict[str, Any]:
    """Recall@1, 5 and 10 in both directions, beside chance.

    Returns:
        image_to_text and text_to_image: {"recall@k": …, "chance@k": …}; images, texts: how many different ones.

    Raises:
        DataError: another tokenizer made the shards, they are empty, or a document has no image.
        ConfigError: the model has no image encoder.
    """
    model.check_dataset(dataset)
    _ = model.image_size
    gallery = read_gallery(dataset, max_documents=max_documents)
    images = model.embed_images(gallery.images, progress="images" if progress else None)
    texts = model.embed_tokens(gallery.texts, progress="captions" if progress else None)
    return {
        "image_to_text": _direction(images, texts, gallery.texts_of),
        "text_to_image": _direction(texts, images, gallery.images_of),
        "images": len(images),
        "texts": len(texts),
    }


def _direction(queries: np.ndarray, candidates: np.ndarray, relevant: list[set[int]]) -> dict[str, float]:
    recall, chance = recall_at(queries, candidates, relevant), chance_recall_at(len(candidates), relevant)
    return {f"recall@{cutoff}": recall[cutoff] for cutoff in CUTOFFS} | {f"chance@{cutoff}": chance[cutoff] for cutoff in CUTOFFS}
