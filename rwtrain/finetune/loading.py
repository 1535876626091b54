"""Batches of packed examples, a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rwtrain.config.schema import BatchConfig
from rwtrain.config.settings import BatchSettings
from rwtrain.data.loader import StepBatches
from rwtrain.data.order import random_uniform, sample_at
from rwtrain.data.packing import pack
from rwtrain.data.recipe import BatchBuilder, Recipe
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, MASK_ID
from rwtrain.finetune.encoding import Encoded

STREAM_HIDE = 31
PREFETCH = 4


@dataclass
class TaskBatch:
    """One micro-batch; B rows of S tokens with room for `slots` examples.

    Attributes:
        input_ids, position_ids, block_sequence_ids: [B, S] int64, every text one block.
        pool_ids: [B, S] slot of each token; the second texts of pairs have the slots after all first ones.
        targets: [slots] float32 class or score; valid: [slots] float32, 1 where a slot is filled.
        starts, ends: [slots] int64 place of the answer's first and last token in the flattened rows.
        samples: {"example": numbers of the examples}.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    block_sequence_ids: torch.Tensor
    pool_ids: torch.Tensor
    targets: torch.Tensor
    valid: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    samples: dict[str, np.ndarray]


class ExampleLoader(StepBatches):
    """The batches of one rank.

    Args:
        hide_rate: share of the tokens replaced by the mask.

    Attributes:
        slots: examples that a micro-batch has room for.
    """

    def __init__(self, examples: Sequence[Encoded], batch: BatchSettings, *, rank: int, world_size: int, seed: int, hide_rate: float) -> None:
        self.examples, self.rank, self.world_size, self.accumulation, self.prefetch = examples, rank, world_size, batch.accumulation, PREFETCH
        self.seed, self.hide_rate = seed, hide_rate
        self.plan = pack(np.array([len(example) for example in examples]), batch.seq_len)
        self.rows = batch.rows_per_micro_batch(world_size)["rows"]
        shape = BatchConfig(seq_len=batch.seq_len, text_rows=0, masked_rows=self.rows * world_size * batch.accumulation, accumulation=batch.accumulation)
        self.recipe = Recipe.derive(shape, world_size=world_size, image_tokens=0, entity_dim=0)
        self.per_row = int(np.diff(self.plan.row_offsets).max())
        self.slots = self.rows * self.per_row

    def summary(self) -> str:
        return f"{len(self.examples):,} examples in {len(self.plan):,} rows, {self.plan.fill:.1%} full"

    def steps(self, epochs: float, rows: int) -> int:
        """Optimiser steps of `epochs` passes with `rows` rows each."""
        return max(1, -(-round(epochs * len(self.plan)) // rows))

    def micro_batch(self, step: int, index: int) -> TaskBatch:
        """Micro-batch `index` (0 … accumulation − 1) of optimiser step `step` for this rank."""
        parts = self.accumulation * self.world_size
        first = (step * parts + index * self.world_size + self.rank) * self.rows
        positions = np.arange(first, first + self.rows)
        builder = BatchBuilder(self.recipe, 0)
        targets, valid = np.zeros(self.slots, np.float32), np.zeros(self.slots, np.float32)
        places = np.zeros((2, self.slots), np.int64)
        numbers = []
        for row, sample in enumerate(sample_at(positions, len(self.plan), self.seed)):
            members = self.plan.document[self.plan.row_offsets[sample] : self.plan.row_offsets[sample + 1]]
            for slot, member in enumerate(members, row * self.per_row):
                example = self.examples[member]
                starts = [
                    builder.add_segment(row, segment, block_tokens=len(segment), pool=slot + view * self.slots) for view, segment in enumerate(example.segments)
                ]
                targets[slot], valid[slot] = example.target, 1
                places[:, slot] = row * self.recipe.config.seq_len + starts[0] + np.array([example.start, example.end])
                numbers.append(example.example)
        self._hide(builder.input_ids, first)
        return TaskBatch(
            input_ids=torch.from_numpy(builder.input_ids),
            position_ids=torch.from_numpy(builder.position_ids),
            block_sequence_ids=torch.from_numpy(builder.block_ids),
            pool_ids=torch.from_numpy(builder.pool_ids),
            targets=torch.from_numpy(targets),
            valid=torch.from_numpy(valid),
            starts=torch.from_numpy(places[0]),
            ends=torch.from_numpy(places[1]),
            samples={"example": np.array(numbers)},
        )

    def _hide(self, input_ids: np.ndarray, first: int) -> None:
        if self.hide_rate:
            keys = np.arange(input_ids.size, dtype=np.uint64).reshape(input_ids.shape) + np.uint64(first * input_ids.shape[1])
            hidden = (random_uniform(self.seed, keys, STREAM_HIDE) < self.hide_rate) & (input_ids != BOS_ID) & (input_ids != EOS_ID)
            input_ids[hidden] = MASK_ID
