"""The fine-tuning configuration: every setting, its unit and its default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rwtrain.config.load import Node
from rwtrain.config.schema import CheckpointConfig, EngineConfig, GuardConfig, LoggingConfig, OptimizerConfig


class TaskConfig(Node):
    """What is learnt, and from which files."""

    name: str
    """sst2, cola, mrpc, rte, qnli, wnli, stsb, squad, or the path of a training file with named columns."""
    data: str | None = None
    """Folder of GLUE's files, in which `train` and `valid` are looked for."""
    train: str | None = None
    """Training file; None to find it in `data`."""
    valid: str | None = None
    """File to judge by; None to find it in `data`, or for a file of one's own: no figures."""
    head: Literal["classifier", "embedding"] | None = None
    """How pairs get a number: a linear layer over both texts read together, or the cosine of their embeddings; None for the task's own."""
    score_range: tuple[float, float] = (0.0, 5.0)
    """Lowest and highest score of a regression; an embedding's cosine is taught to run from 0 to 1 between them."""


class FinetuneBatchConfig(Node):
    """The global batch of one optimiser step: rows of packed examples."""

    seq_len: PositiveInt = 128
    """Tokens of a row, and the longest example; longer ones are cut, contexts of questions are read in overlapping windows."""
    rows: PositiveInt = 8
    """Rows of a global batch, whatever the number of ranks."""
    accumulation: PositiveInt = 1
    """Micro-batches per optimiser step."""

    def rows_per_micro_batch(self, world_size: int) -> dict[str, int]:
        """Rows in one micro-batch of one rank; raises `ValueError` if they do not divide evenly."""
        parts = world_size * self.accumulation
        if self.rows % parts:
            raise ValueError(f"batch.rows={self.rows} cannot be split over {world_size} ranks × {self.accumulation} accumulation steps")
        return {"rows": self.rows // parts}


class FinetuneConfig(Node):
    """The root of a fine-tuning configuration."""

    run: str
    """Folder of the run: configuration, logs, checkpoints, results, and the fine-tuned model."""
    model: str
    """What is fine-tuned: a folder written by `rwtrain export`, a run folder (its latest checkpoint) or one checkpoint."""
    task: TaskConfig
    """What is learnt."""
    epochs: PositiveFloat = 3.0
    """Passes over the training file."""
    steps: NonNegativeInt = 0
    """Optimiser steps; 0: as many as `epochs` needs."""
    seed: NonNegativeInt = 0
    """Seed of the new head, the order and every random choice."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the states' values dropped before a linear head."""
    hide_rate: float = Field(0.0, ge=0, lt=1)
    """Share of the tokens replaced by the mask in training, anew in every epoch: against learning small files by heart."""
    batch: FinetuneBatchConfig = FinetuneBatchConfig()
    """The global batch."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-4, min_learning_rate_ratio=0.0, warmup_steps=50, schedule="linear", beta2=0.98, weight_decay=0.01
    )
    """Optimiser and schedule."""
    engine: EngineConfig = EngineConfig(overlays=["zero1", "bf16"])
    """DeepSpeed."""
    checkpoint: CheckpointConfig = CheckpointConfig(every_steps=500, keep=1)
    """Checkpoints."""
    guard: GuardConfig = GuardConfig()
    """What protects the run."""
    logging: LoggingConfig = LoggingConfig()
    """Reporting."""
