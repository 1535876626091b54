"""The batch recipe: how many rows are read in which way, and the tensors that follow. Every micro-batch has the same shapes.

Rows of a micro-batch, in this order:
  text    packed documents, read causally; next-token loss
  masked  packed documents, every segment one bidirectional block; the token before a masked one predicts it
  pair    two texts per pair and perhaps a hard negative, each one bidirectional block; pooled for the text contrast
  image   an image block followed by its caption (causal, next-token loss on the caption), and the caption once more as a
          bidirectional block; image and second caption are pooled for the image contrast
Dimensions in names: B rows, S tokens of a row, M mention slots of a row, Q entity queries of a row, E entity vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rwtrain.config.schema import BatchConfig
from rwtrain.data.tokenizer import PAD_ID


@dataclass(frozen=True)
class Recipe:
    """Shapes of one micro-batch, derived from the global batch and the number of ranks."""

    config: BatchConfig
    text_rows: int
    masked_rows: int
    pair_rows: int
    image_rows: int
    image_tokens: int
    entity_dim: int
    entity_negatives: int = 0

    @classmethod
    def derive(cls, config: BatchConfig, *, world_size: int, image_tokens: int, entity_dim: int) -> Recipe:
        """Split the global batch over `world_size` ranks and the accumulation steps.

        Args:
            image_tokens: trunk tokens of one image, 0 for a model without images.
            entity_dim: width of the entity vectors, 0 for a model without knowledge.
        """
        shares = config.rows_per_micro_batch(world_size)
        negatives = config.entity_negatives // (world_size * config.accumulation) if entity_dim else 0
        return cls(config, **shares, image_tokens=image_tokens, entity_dim=entity_dim, entity_negatives=negatives)

    @property
    def rows(self) -> int:
        return self.text_rows + self.masked_rows + self.pair_rows + self.image_rows

    @property
    def pairs_per_row(self) -> int:
        return self.config.seq_len // (self.config.views * self.config.view_tokens)

    @property
    def image_slot_tokens(self) -> int:
        return self.image_tokens + 2 * self.config.caption_tokens

    @property
    def images_per_row(self) -> int:
        return self.config.seq_len // self.image_slot_tokens

    @property
    def pairs(self) -> int:
        return self.pair_rows * self.pairs_per_row

    @property
    def images(self) -> int:
        return self.image_rows * self.images_per_row

    @property
    def hard_negatives(self) -> int:
        """Places for hard negatives, one of each pair or none."""
        return self.pairs if self.config.hard_negatives else 0

    @property
    def pool_slots(self) -> int:
        """First views, second views, hard negatives, captions, images: in this order."""
        return 2 * self.pairs + self.hard_negatives + 2 * self.images

    @property
    def caption_slot(self) -> int:
        """The first caption's pooled slot; the images' follow the captions'."""
        return 2 * self.pairs + self.hard_negatives

    def row_range(self, kind: str) -> slice:
        """The rows of one kind: "text", "masked", "pair" or "image"."""
        start = 0
        for name in ("text", "masked", "pair", "image"):
            stop = start + getattr(self, f"{name}_rows")
            if name == kind:
                return slice(start, stop)
            start = stop
        raise KeyError(kind)


@dataclass
class Batch:
    """One micro-batch; shapes follow from the recipe alone.

    Attributes:
        input_ids, position_ids, block_sequence_ids, labels, pool_ids: [B, S] int64, as `RefinedWebForPreTraining.forward` reads them.
        entity_embeds [B, M, E] float32, entity_positions [B, M] int64: entity vectors entering at tokens (−1: empty slot).
        query_embeds [B, Q, E] float32, query_positions [B, Q] int64: withheld mentions; query_entities [B, Q] int64 their rows in the store.
        pixel_values: [images, 3, size, size] float32.
        negative_embeds [K, E] float32, negative_entities [K] int64: entities drawn from the whole store.
        pair_content, image_content: content ids of the pairs and images, int64; pair_valid, image_valid: 1 where a slot is filled, float32.
        hard_content, hard_valid: the same of the hard negatives, [0] where the recipe has none.
        samples: {stream: global sample positions}, to name what a batch was made of.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    block_sequence_ids: torch.Tensor
    labels: torch.Tensor
    pool_ids: torch.Tensor
    entity_embeds: torch.Tensor
    entity_positions: torch.Tensor
    query_embeds: torch.Tensor
    query_positions: torch.Tensor
    query_entities: torch.Tensor
    negative_embeds: torch.Tensor
    negative_entities: torch.Tensor
    pixel_values: torch.Tensor
    pair_content: torch.Tensor
    pair_valid: torch.Tensor
    hard_content: torch.Tensor
    hard_valid: torch.Tensor
    image_content: torch.Tensor
    image_valid: torch.Tensor
    samples: dict[str, np.ndarray]


class BatchBuilder:
    """Fill a micro-batch segment by segment; what is not filled stays padding with no label, no pool and no weight."""

    def __init__(self, recipe: Recipe, image_size: int) -> None:
        config = recipe.config
        shape = (recipe.rows, config.seq_len)
        self.recipe = recipe
        self.input_ids = np.full(shape, PAD_ID, np.int64)
        self.position_ids = np.tile(np.arange(config.seq_len), (recipe.rows, 1))
        self.block_ids = np.full(shape, -1, np.int64)
        self.labels = np.full(shape, -100, np.int64)
        self.pool_ids = np.full(shape, -1, np.int64)
        self._used = np.zeros(recipe.rows, np.int64)
        self._blocks = np.zeros(recipe.rows, np.int64)
        self.entity_positions = np.full((recipe.rows, config.mentions_per_row), -1, np.int64)
        self.entity_rows = np.zeros((recipe.rows, config.mentions_per_row), np.int64)
        self.query_positions = np.full((recipe.rows, config.queries_per_row), -1, np.int64)
        self.query_rows = np.zeros((recipe.rows, config.queries_per_row), np.int64)
        self._mentions = np.zeros(recipe.rows, np.int64)
        self._queries = np.zeros(recipe.rows, np.int64)
        self.pixels = np.zeros((recipe.images, 3, image_size, image_size), np.float32)
        self.pair_content = np.zeros(recipe.pairs, np.int64)
        self.pair_valid = np.zeros(recipe.pairs, np.float32)
        self.hard_content = np.zeros(recipe.hard_negatives, np.int64)
        self.hard_valid = np.zeros(recipe.hard_negatives, np.float32)
        self.negative_rows = np.zeros(recipe.entity_negatives, np.int64)
        self.image_content = np.zeros(recipe.images, np.int64)
        self.image_valid = np.zeros(recipe.images, np.float32)

    def add_segment(self, row: int, tokens: np.ndarray, *, block_tokens: int, pool: int = -1, pool_tokens: int | None = None, at: int | None = None) -> int:
        """Place a segment and return its first place in the row.

        Args:
            tokens: token ids, 1-D.
            block_tokens: how many of its first tokens form one bidirectional block; the rest is causal.
            pool: pooled slot that averages its first `pool_tokens` tokens (default: all of them), −1 for none.
            at: place in the row; default: behind the segments placed so far.
        """
        start = int(self._used[row]) if at is None else at
        if start < self._used[row] or start + len(tokens) > self.input_ids.shape[1] or block_tokens > len(tokens):
            raise ValueError(
                f"row {row}: a segment of {len(tokens)} tokens (block of {block_tokens}) at place {start}, where {self._used[row]} of "
                f"{self.input_ids.shape[1]} places are taken: segments must not overlap, and a block must lie inside its segment."
            )
        part = slice(start, start + len(tokens))
        self.input_ids[row, part] = tokens
        self.position_ids[row, part] = np.arange(len(tokens))
        if block_tokens:
            self.block_ids[row, start : start + block_tokens] = self._blocks[row]
            self._blocks[row] += 1
        if pool >= 0:
            self.pool_ids[row, start : start + (len(tokens) if pool_tokens is None else pool_tokens)] = pool
        end = start + len(tokens)
        self._used[row] = max(self._used[row], end)
        self.position_ids[row, end:] = np.arange(self.position_ids.shape[1] - end)  # what follows is another segment
        return start

    def add_mention(self, row: int, places: np.ndarray, entity: int) -> None:
        """Let an entity's vector enter at `places` of a row; surplus mentions of a full row are left out."""
        used = int(self._mentions[row])
        places = places[: self.entity_positions.shape[1] - used]
        self.entity_positions[row, used : used + len(places)] = places
        self.entity_rows[row, used : used + len(places)] = entity
        self._mentions[row] += len(places)

    def add_query(self, row: int, place: int, entity: int) -> bool:
        """Ask for an entity at `place` of a row; False if the row's query slots are taken."""
        used = int(self._queries[row])
        if used >= self.query_positions.shape[1]:
            return False
        self.query_positions[row, used], self.query_rows[row, used] = place, entity
        self._queries[row] += 1
        return True

    def finish(self, vectors: np.ndarray | None, samples: dict[str, np.ndarray]) -> Batch:
        """The batch as tensors; `vectors` is the entity table [entities, E], looked up for this batch's mentions only."""
        entity_embeds = self._lookup(vectors, self.entity_rows, self.entity_positions)
        query_embeds = self._lookup(vectors, self.query_rows, self.query_positions)
        negative_embeds = self._lookup(vectors, self.negative_rows, np.zeros_like(self.negative_rows))
        return Batch(
            input_ids=torch.from_numpy(self.input_ids),
            position_ids=torch.from_numpy(self.position_ids),
            block_sequence_ids=torch.from_numpy(self.block_ids),
            labels=torch.from_numpy(self.labels),
            pool_ids=torch.from_numpy(self.pool_ids),
            entity_embeds=entity_embeds,
            entity_positions=torch.from_numpy(self.entity_positions),
            query_embeds=query_embeds,
            query_positions=torch.from_numpy(self.query_positions),
            query_entities=torch.from_numpy(self.query_rows),
            negative_embeds=negative_embeds,
            negative_entities=torch.from_numpy(self.negative_rows),
            pixel_values=torch.from_numpy(self.pixels),
            pair_content=torch.from_numpy(self.pair_content),
            pair_valid=torch.from_numpy(self.pair_valid),
            hard_content=torch.from_numpy(self.hard_content),
            hard_valid=torch.from_numpy(self.hard_valid),
            image_content=torch.from_numpy(self.image_content),
            image_valid=torch.from_numpy(self.image_valid),
            samples=samples,
        )

    def _lookup(self, vectors: np.ndarray | None, rows: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        found = np.zeros((*rows.shape, self.recipe.entity_dim), np.float32)
        filled = positions >= 0
        if vectors is not None and filled.any():
            found[filled] = vectors[rows[filled]]
        return torch.from_numpy(found)
