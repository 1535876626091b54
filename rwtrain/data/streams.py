"""Streams: what stands at a position of the text, pair and image sequences, and how it enters a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xxhash

from rwtrain.config.schema import AugmentConfig
from rwtrain.data.augment import DRAWS, augmented
from rwtrain.data.images import decode_image, normalize, preprocess_image
from rwtrain.data.mixture import Mixture
from rwtrain.data.order import random_uint64, random_uniform, sample_at
from rwtrain.data.packing import PackingPlan
from rwtrain.data.recipe import BatchBuilder
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID
from rwtrain.errors import DataError, RWTrainError

STREAM_MASK, STREAM_SPAN, STREAM_WITHHOLD, STREAM_AUGMENT, STREAM_NEGATIVE = 11, 12, 13, 14, 15
MAX_MENTIONS_PER_ROW = 1 << 12  # of one row, for distinct random keys


class Stream(Protocol):
    """An endless sequence of items."""

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """Put the items at `positions` into the places `slots` (0, 1, … of this kind) of the batch's rows `rows`."""


class MixedStream:
    """Streams of one kind, each over its own source, mixed by weight."""

    def __init__(self, sources: Sequence[Stream], mixture: Mixture) -> None:
        self.sources, self.mixture = sources, mixture

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        source_of, own = self.mixture.locate(positions)
        for number, source in enumerate(self.sources):
            chosen = source_of == number
            source.fill(builder, rows, slots[chosen], own[chosen])


class TextStream:
    """Rows of packed documents, causal or masked.

    Args:
        plan: which pieces of which documents share a row.
        masked: read every segment in both directions and hide some tokens, instead of causally.
        withhold: share of mentions whose vector is withheld and asked for instead.
        mask_rate: share of hidden tokens in masked rows.
    """

    def __init__(self, dataset: ShardDataset, plan: PackingPlan, *, seed: int, masked: bool, withhold: float, mask_rate: float) -> None:
        self.dataset, self.seed, self.masked, self.withhold, self.mask_rate = dataset, seed, masked, withhold, mask_rate
        self.plan = plan
        if len(self.plan) == 0:
            raise DataError(dataset.folder, "no document with two tokens or more", "Prepare a larger corpus, or loosen its filters")

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """A slot is a row."""
        samples = sample_at(positions, len(self.plan), self.seed)
        for row, position, sample in zip((rows.start + slots).tolist(), positions, samples, strict=True):
            for segment in range(int(self.plan.row_offsets[sample]), int(self.plan.row_offsets[sample + 1])):
                self._add(builder, row, int(position), segment)

    def _add(self, builder: BatchBuilder, row: int, position: int, segment: int) -> None:
        document, first = int(self.plan.document[segment]), int(self.plan.start[segment])
        length = int(self.plan.length[segment])
        tokens = np.asarray(self.dataset.tokens(document, first, first + length), np.int64)
        start = builder.add_segment(row, tokens, block_tokens=length if self.masked else 0)
        if self.masked:
            places = np.uint64(position << 20) + np.arange(start, start + length, dtype=np.uint64)
            hidden = (random_uniform(self.seed, places, STREAM_MASK) < self.mask_rate) & (tokens != BOS_ID) & (tokens != EOS_ID)
            hidden[0] = False
            builder.labels[row, start : start + length][hidden] = tokens[hidden]
            builder.input_ids[row, start : start + length][hidden] = MASK_ID
        else:
            builder.labels[row, start + 1 : start + length] = tokens[1:]
        for begin, end, entity in zip(*self.dataset.mentions(document), strict=True):
            last = end - 1 - first
            if not 0 <= last < length:
                continue
            key = position * MAX_MENTIONS_PER_ROW + (start + last) % MAX_MENTIONS_PER_ROW
            if random_uniform(self.seed, key, STREAM_WITHHOLD) < self.withhold and builder.add_query(row, start + last, int(entity)):
                continue
            begin = max(int(begin) - first, 0)
            places = np.arange(begin, last + 1) if self.masked else np.array([last])
            builder.add_mention(row, start + places, int(entity))


class PairStream:
    """Two adjacent spans of one document as positives (Cheng et al. 2023; Izacard et al. 2022 crop independently instead).

    Args:
        twice: one span as both views, which then differ by dropout alone (Gao et al. 2021).
    """

    def __init__(self, dataset: ShardDataset, *, view_tokens: int, seed: int, twice: bool = False) -> None:
        self.dataset, self.seed, self.view = dataset, seed, view_tokens - 1  # one place is for the begin mark
        self.spans = 1 if twice else 2
        self.documents = np.flatnonzero(dataset.lengths - 2 >= self.spans * max(4, self.view // 4))
        if len(self.documents) == 0:
            raise DataError(
                dataset.folder,
                f"no document is long enough for {self.spans} span(s) of {max(4, self.view // 4)} tokens",
                "Set batch.pair_rows to 0, or prepare longer documents",
            )

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """A slot is a pair; pairs_per_row of them share a row."""
        recipe, width = builder.recipe, builder.recipe.config.view_tokens
        for slot, position, sample in zip(slots.tolist(), positions, sample_at(positions, len(self.documents), self.seed), strict=True):
            row, place = rows.start + slot // recipe.pairs_per_row, slot % recipe.pairs_per_row * 2 * width
            document = int(self.documents[sample])
            usable = int(self.dataset.lengths[document]) - 2  # without begin and end marks
            span = min(self.view, usable // self.spans)
            first = 1 + int(random_uint64(self.seed, int(position), STREAM_SPAN)) % (usable - self.spans * span + 1)
            for view in range(2):
                begin = first + (view * span if self.spans == 2 else 0)
                add_view(builder, self.dataset, row, at=place + view * width, document=document, first=begin, span=span, pool=slot + view * recipe.pairs)
            shard, index = self.dataset.locate(document)
            builder.pair_content[slot] = shard.content_id[index : index + 1].view(np.int64)[0]
            builder.pair_valid[slot] = 1


def add_view(builder: BatchBuilder, dataset: ShardDataset, row: int, *, at: int, document: int, first: int, span: int, pool: int) -> None:
    """Tokens `first` to `first + span` of a document behind a begin mark, as one pooled block, with the mentions that lie in them."""
    tokens = np.concatenate(([BOS_ID], dataset.tokens(document, first, first + span)))
    start = builder.add_segment(row, tokens, block_tokens=len(tokens), pool=pool, at=at)
    for begin, end, entity in zip(*dataset.mentions(document), strict=True):
        if first <= begin and end <= first + span:
            builder.add_mention(row, start + 1 + np.arange(begin - first, end - first), int(entity))


class GivenPairStream:
    """Pairs that `rwtrain pairs` wrote: documents of two texts, or of three with a hard negative, each from its begin mark to its end mark."""

    def __init__(self, dataset: ShardDataset, *, view_tokens: int, seed: int) -> None:
        self.dataset, self.seed, self.view = dataset, seed, view_tokens - 1
        if dataset.manifest["provenance"].get("kind") != "pairs" or len(dataset) == 0:
            raise DataError(dataset.folder, "holds no pairs", "Point data.pairs at a folder that `rwtrain pairs` wrote")

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """A slot is a pair; pairs_per_row of them share a row."""
        recipe, width = builder.recipe, builder.recipe.config.view_tokens
        views = recipe.config.views
        for slot, sample in zip(slots.tolist(), sample_at(positions, len(self.dataset), self.seed), strict=True):
            document = int(sample)
            row, place = rows.start + slot // recipe.pairs_per_row, slot % recipe.pairs_per_row * views * width
            tokens = self.dataset.tokens(document)
            bounds = np.append(np.flatnonzero(tokens == BOS_ID), len(tokens))
            shard, index = self.dataset.locate(document)
            if len(bounds) not in (3, 4):
                raise DataError(self.dataset.folder, f"{len(bounds) - 1} texts in a pair", "Write the pairs again", record=shard.doc_id(index))
            for view, (begin, end) in enumerate(itertools.pairwise(map(int, bounds[: views + 1]))):
                span, pool = min(end - begin - 2, self.view), slot + view * recipe.pairs  # without its marks
                add_view(builder, self.dataset, row, at=place + view * width, document=document, first=begin + 1, span=span, pool=pool)
                if view == 2:
                    builder.hard_content[slot] = xxhash.xxh3_64_intdigest(tokens[begin:end].tobytes()) >> 1
                    builder.hard_valid[slot] = 1
            builder.pair_content[slot] = shard.content_id[index : index + 1].view(np.int64)[0]
            builder.pair_valid[slot] = 1


class EntityStream:
    """Entities drawn evenly from the whole store, as further negatives."""

    def __init__(self, entities: int, *, seed: int) -> None:
        self.entities, self.seed = entities, seed

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """A slot is one entity drawn."""
        builder.negative_rows[slots] = (random_uint64(self.seed, positions, STREAM_NEGATIVE) % np.uint64(self.entities)).astype(np.int64)


class ImageStream:
    """Images with their captions.

    Args:
        augment: random changes of the images.
    """

    def __init__(self, dataset: ShardDataset, *, caption_tokens: int, image_size: int, seed: int, augment: AugmentConfig) -> None:
        self.dataset, self.caption_tokens, self.image_size, self.seed, self.augment = dataset, caption_tokens, image_size, seed, augment
        if dataset.manifest["images"] < len(dataset) or len(dataset) == 0:
            raise DataError(dataset.folder, "not every document has an image", "Point data.images at an image-text dataset")

    def fill(self, builder: BatchBuilder, rows: slice, slots: np.ndarray, positions: np.ndarray) -> None:
        """A slot is an image with its caption; images_per_row of them share a row."""
        recipe = builder.recipe
        for slot, position, sample in zip(slots.tolist(), positions, sample_at(positions, len(self.dataset), self.seed), strict=True):
            row, place = rows.start + slot // recipe.images_per_row, slot % recipe.images_per_row * recipe.image_slot_tokens
            shard, index = self.dataset.locate(int(sample))
            try:
                builder.pixels[slot] = self._pixels(shard.images(index)[0], int(position))
            except RWTrainError as error:
                raise self._refused(shard.doc_id(index), error) from error
            self._add(builder, row, place, slot, int(sample))

    def _add(self, builder: BatchBuilder, row: int, place: int, slot: int, sample: int) -> None:
        recipe = builder.recipe
        caption = np.asarray(self.dataset.tokens(sample, 0, self.caption_tokens), np.int64)
        shard, index = self.dataset.locate(sample)
        image_slot, caption_slot = recipe.caption_slot + recipe.images + slot, recipe.caption_slot + slot
        tokens = np.concatenate((np.full(recipe.image_tokens, IMAGE_ID), caption))
        start = builder.add_segment(row, tokens, block_tokens=recipe.image_tokens, pool=image_slot, pool_tokens=recipe.image_tokens, at=place)
        builder.labels[row, start + recipe.image_tokens + 1 : start + len(tokens)] = caption[1:]
        text = caption[caption != EOS_ID]
        builder.add_segment(row, text, block_tokens=len(text), pool=caption_slot, at=place + recipe.image_tokens + self.caption_tokens)
        builder.image_content[slot] = shard.content_id[index : index + 1].view(np.int64)[0]
        builder.image_valid[slot] = 1

    def _pixels(self, encoded: bytes, position: int) -> np.ndarray:
        if not self.augment.active:
            return preprocess_image(encoded, self.image_size)
        draws = random_uniform(self.seed, np.arange(position * DRAWS, (position + 1) * DRAWS), STREAM_AUGMENT)
        return normalize(augmented(decode_image(encoded), self.image_size, self.augment, draws))

    def _refused(self, document: str, error: Exception) -> DataError:
        remedy = "`rwtrain prep` leaves out what does not decode: write the dataset with it, or remove this document"
        return DataError(self.dataset.folder, str(error).rstrip("."), remedy, record=document)
