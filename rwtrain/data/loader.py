"""The loader: the batches of any step, as a pure function of the step, and a thread that prepares the next ones."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch, BatchBuilder, Recipe
from rwtrain.data.shards import ShardDataset
from rwtrain.data.streams import EntityStream, GivenPairStream, ImageStream, PairStream, TextStream
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError

Stream = TextStream | PairStream | GivenPairStream | ImageStream | EntityStream


def open_dataset(folder: str, tokenizer: Tokenizer, *, verify: bool, entity_store_hash: str | None) -> ShardDataset:
    """Open shards and refuse those that another tokenizer or another entity store made.

    Raises:
        DataError: the dataset is unfinished, corrupt, or does not match.
    """
    dataset = ShardDataset(folder, verify=verify)
    made_with = dataset.manifest["tokenizer_hash"]
    if made_with != tokenizer.hash:
        raise DataError(
            Path(folder),
            f"its token ids come from another tokenizer ({made_with[:12]}…) than {tokenizer.path} ({tokenizer.hash[:12]}…)",
            "Set data.tokenizer to the tokenizer that made the shards, or prepare them again",
        )
    store = dataset.manifest["entity_store_hash"]
    if dataset.manifest["mentions"] and entity_store_hash is not None and store != entity_store_hash:
        raise DataError(
            Path(folder),
            "its mentions point into another entity store than data.entity_store",
            "Set data.entity_store to the store the shards were linked with, or prepare them again",
        )
    return dataset


class StepBatches:
    """Batches by step, and a thread that prepares the next ones.

    Attributes:
        accumulation: micro-batches of a step; prefetch: steps prepared ahead.
    """

    accumulation: int
    prefetch: int

    def micro_batch(self, step: int, index: int) -> Any:
        """Micro-batch `index` (0 … accumulation − 1) of optimiser step `step` for this rank."""
        raise NotImplementedError

    def step_batches(self, step: int) -> list[Any]:
        """All micro-batches of one optimiser step for this rank."""
        return [self.micro_batch(step, index) for index in range(self.accumulation)]

    def iterate(self, start: int, stop: int) -> Iterator[tuple[list[Any], float]]:
        """Yield (micro-batches, seconds waited for them) for steps `start` to `stop`, prepared ahead by a thread."""
        ready: queue.Queue[list[Any] | BaseException] = queue.Queue(self.prefetch)
        closed = threading.Event()

        def put(item: list[Any] | BaseException) -> None:
            while not closed.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def work() -> None:
            try:
                for step in range(start, stop):
                    if closed.is_set():
                        return
                    put(self.step_batches(step))
            except BaseException as error:  # handed to the training thread, which raises it
                put(error)

        worker = threading.Thread(target=work, name="loader", daemon=True)
        worker.start()
        try:
            for _ in range(start, stop):
                began = time.perf_counter()
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item, time.perf_counter() - began
        finally:
            closed.set()
            worker.join()


class Loader(StepBatches):
    """Batches by step: rank r takes its share of a global batch that does not depend on the number of ranks.

    Args:
        vectors: entity vectors [entities, E] (memory-mapped), or None.
        pairs: given text pairs, instead of spans of documents.
        image_size: height and width of images in pixels.
    """

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        *,
        rank: int,
        world_size: int,
        text: ShardDataset,
        images: ShardDataset | None,
        vectors: np.ndarray | None,
        image_size: int,
        pairs: ShardDataset | None = None,
    ) -> None:
        batch, seed = config.batch, config.seed
        self.recipe, self.rank, self.world_size, self.accumulation = recipe, rank, world_size, batch.accumulation
        self.vectors, self.image_size, self.prefetch = vectors, image_size, config.data.prefetch_batches
        withhold = batch.withhold if vectors is not None else 0.0
        self.streams: dict[str, tuple[Stream, int]] = {}  # kind -> (stream, items of one micro-batch)
        if recipe.text_rows:
            self.streams["text"] = (
                TextStream(text, seq_len=batch.seq_len, seed=seed, masked=False, withhold=withhold, mask_rate=batch.mask_rate),
                recipe.text_rows,
            )
        if recipe.masked_rows:
            self.streams["masked"] = (
                TextStream(text, seq_len=batch.seq_len, seed=seed + 1, masked=True, withhold=withhold, mask_rate=batch.mask_rate),
                recipe.masked_rows,
            )
        if recipe.pairs:
            if pairs is not None:
                self.streams["pair"] = (GivenPairStream(pairs, view_tokens=batch.view_tokens, seed=seed + 2), recipe.pairs)
            else:
                self.streams["pair"] = (PairStream(text, view_tokens=batch.view_tokens, seed=seed + 2, twice=batch.pair_views == "dropout"), recipe.pairs)
        if recipe.entity_negatives and vectors is not None:
            self.streams["entity"] = (EntityStream(len(vectors), seed=seed + 4), recipe.entity_negatives)
        if recipe.images and images is not None:
            stream = ImageStream(images, caption_tokens=batch.caption_tokens, image_size=image_size, seed=seed + 3, augment=config.data.augment)
            self.streams["image"] = (stream, recipe.images)

    def summary(self) -> str:
        """How full the packed rows are."""
        return ", ".join(f"{kind} rows {stream.plan.fill:.1%} full" for kind, (stream, _) in self.streams.items() if isinstance(stream, TextStream))

    def micro_batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` (0 … accumulation − 1) of optimiser step `step` for this rank."""
        builder = BatchBuilder(self.recipe, self.image_size)
        samples = {}
        for kind, (stream, items) in self.streams.items():
            parts = self.accumulation * self.world_size
            first = (step * parts + index * self.world_size + self.rank) * items
            samples[kind] = np.arange(first, first + items)
            stream.fill(builder, self.recipe.row_range(kind) if kind != "entity" else slice(0), samples[kind])
        return builder.finish(self.vectors, samples)
