"""What the training loop reads of a configuration, whether it pretrains or fine-tunes."""

from __future__ import annotations

from typing import Protocol

from rwtrain.config.schema import CheckpointConfig, EngineConfig, GuardConfig, LoggingConfig, OptimizerConfig


class BatchSettings(Protocol):
    """Shape of the global batch; the fields as in `BatchConfig`."""

    @property
    def seq_len(self) -> int: ...

    @property
    def accumulation(self) -> int: ...

    def rows_per_micro_batch(self, world_size: int) -> dict[str, int]:
        """Rows of each kind in one micro-batch of one rank; raises `ValueError` if they do not divide evenly."""


class RunSettings(Protocol):
    """A run's settings beside its data, model and losses; the nodes as in `TrainConfig`."""

    @property
    def run(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def batch(self) -> BatchSettings: ...

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def engine(self) -> EngineConfig: ...

    @property
    def checkpoint(self) -> CheckpointConfig: ...

    @property
    def guard(self) -> GuardConfig: ...

    @property
    def logging(self) -> LoggingConfig: ...
