"""The loader: the batches of any step, as a pure function of the step, and a thread that prepares the next ones."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwtrain.config.schema import TrainConfig
from rwtrain.data.mixture import Mixture
from rwtrain.data.order import share_of_batch
from rwtrain.data.plan_cache import packing_plan
from rwtrain.data.recipe import Batch, BatchBuilder, Recipe
from rwtrain.data.shards import ShardDataset
from rwtrain.data.streams import EntityStream, GivenPairStream, ImageStream, MixedStream, PairStream, Stream, TextStream
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import DataError

SOURCE_SEED_BITS = 32  # a source's seed is the stream's plus its number shifted by so many bits, so that equal sources are shuffled differently


@dataclass(frozen=True)
class Sources:
    """Datasets of one kind and how they are mixed."""

    datasets: Sequence[ShardDataset]
    mixture: Mixture


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


class StepBatches(ABC):
    """Batches by step, and a thread that prepares the next ones.

    Attributes:
        accumulation: micro-batches of a step; prefetch: steps prepared ahead.
    """

    accumulation: int
    prefetch: int

    @abstractmethod
    def micro_batch(self, step: int, index: int) -> Any:
        """Micro-batch `index` (0 … accumulation − 1) of optimiser step `step` for this rank."""

    def step_batches(self, step: int) -> list[Any]:
        """All micro-batches of one optimiser step for this rank."""
        return [self.micro_batch(step, index) for index in range(self.accumulation)]

    def iterate(self, start: int, stop: int) -> Generator[tuple[list[Any], float], None, None]:
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
        cache: folder of packing plans, None to keep them in memory.

    Attributes:
        fill: share of the places of packed rows that hold a token, over all text sources by weight.
    """

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        *,
        rank: int,
        world_size: int,
        text: Sources,
        images: Sources | None,
        vectors: np.ndarray | None,
        image_size: int,
        pairs: ShardDataset | None = None,
        cache: Path | None = None,
    ) -> None:
        batch, seed = config.batch, config.seed
        self.recipe, self.rank, self.world_size, self.accumulation = recipe, rank, world_size, batch.accumulation
        self.vectors, self.image_size, self.prefetch = vectors, image_size, config.data.prefetch_batches
        withhold = batch.withhold if vectors is not None else 0.0
        packed = recipe.text_rows or recipe.masked_rows
        plans = {dataset.folder: packing_plan(dataset, batch.seq_len, cache) for dataset in text.datasets} if packed else {}
        shares = zip(text.datasets, text.mixture.counts, strict=True)
        self.fill = sum(plans[dataset.folder].fill * count for dataset, count in shares) / text.mixture.period if packed else 1.0
        self.streams: dict[str, tuple[Stream, int]] = {}  # kind -> (stream, items of one micro-batch)

        def add(kind: str, items: int, sources: Sources | None, stream: Callable[[ShardDataset, int], Stream]) -> None:
            number = ("text", "masked", "pair", "image").index(kind)
            if items and sources is not None:
                each = [stream(dataset, seed + number + (place << SOURCE_SEED_BITS)) for place, dataset in enumerate(sources.datasets)]
                self.streams[kind] = (each[0] if len(each) == 1 else MixedStream(each, sources.mixture), items)

        def rows(masked: bool) -> Callable[[ShardDataset, int], Stream]:
            return lambda dataset, seed: TextStream(dataset, plans[dataset.folder], seed=seed, masked=masked, withhold=withhold, mask_rate=batch.mask_rate)

        def views(dataset: ShardDataset, seed: int) -> Stream:
            return PairStream(dataset, view_tokens=batch.view_tokens, seed=seed, twice=batch.pair_views == "dropout")

        def pictures(dataset: ShardDataset, seed: int) -> Stream:
            return ImageStream(dataset, caption_tokens=batch.caption_tokens, image_size=image_size, seed=seed, augment=config.data.augment)

        add("text", recipe.text_rows, text, rows(masked=False))
        add("masked", recipe.masked_rows, text, rows(masked=True))
        if recipe.pairs and pairs is not None:
            self.streams["pair"] = (GivenPairStream(pairs, view_tokens=batch.view_tokens, seed=seed + 2), recipe.pairs)
        else:
            add("pair", recipe.pairs, text, views)
        if recipe.entity_negatives and vectors is not None:
            self.streams["entity"] = (EntityStream(len(vectors), seed=seed + 4), recipe.entity_negatives)
        add("image", recipe.images, images, pictures)

    def summary(self) -> str:
        """How full the packed rows are."""
        return f"text rows {self.fill:.1%} full"

    def micro_batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` (0 … accumulation − 1) of optimiser step `step` for this rank."""
        builder = BatchBuilder(self.recipe, self.image_size)
        samples = {}
        for kind, (stream, items) in self.streams.items():
            samples[kind] = share_of_batch(step, index=index, accumulation=self.accumulation, rank=self.rank, world_size=self.world_size, items=items)
            stream.fill(builder, self.recipe.row_range(kind) if kind != "entity" else slice(0), np.arange(items), samples[kind])
        return builder.finish(self.vectors, samples)
