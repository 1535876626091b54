"""What a run trains: its batches, what is made of them, and its model. The loop, checkpoints, guard and reports are the same for all work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch, Recipe
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import Cached, PretrainingTask, TaskOutput
from rwtrain.train.distributed import Ranks
from rwtrain.train.initial_weights import load_initial
from rwtrain.train.setup import check_identity, make_loader, model_config, open_inputs, prepare_run_folder


class Task(Protocol):
    """Turns batches into named losses.

    Attributes:
        names: of the losses; `weights` says what each counts in the total.
        contrasts: whether a loss compares items of different micro-batches, so that `cache` is of use.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def weights(self) -> list[float]: ...

    @property
    def contrasts(self) -> bool: ...

    def counts(self, batch: Any) -> torch.Tensor:
        """How many items each loss averages over in a micro-batch, [losses] float64."""

    def label_tokens(self, counts: torch.Tensor) -> float:
        """How many tokens go through the language-model head, by `counts`; for the number of operations."""

    def cache(self, model: torch.nn.Module, batches: Sequence[Any], counts: torch.Tensor) -> list[Cached]: ...

    def __call__(self, model: torch.nn.Module, batch: Any, counts: torch.Tensor, cached: Cached | None = None) -> TaskOutput: ...


class Batches(Protocol):
    """The batches of a run, by step."""

    @property
    def recipe(self) -> Recipe: ...

    def iterate(self, start: int, stop: int) -> Generator[tuple[list[Batch], float], None, None]:
        """Yield (micro-batches, seconds waited for them) for steps `start` to `stop`."""

    def summary(self) -> str:
        """What the data is like, in a few words."""


@dataclass(frozen=True)
class Work:
    """The part of a run that differs between pretraining and fine-tuning.

    Attributes:
        model_class: built from `model_config` by the engine.
        begin: gives the freshly built engine of a new run the weights it begins with, and returns what it did ("" for drawn weights). Collective.
        caching: gradient caching, where the task contrasts.
    """

    loader: Batches
    task: Task
    model_class: type[PreTrainedModel]
    model_config: RefinedWebConfig
    begin: Callable[[Any], str]
    caching: bool = False


def pretraining(config: TrainConfig, ranks: Ranks) -> Work:
    """Open and check the data and describe the run in its folder. Collective.

    Raises:
        DataError, ConfigError: as `open_inputs` and `check_identity`.
    """
    inputs = open_inputs(config, verify=config.data.verify and ranks.is_main)
    if ranks.is_main:
        check_identity(config, inputs)
        prepare_run_folder(config, inputs, world_size=ranks.world_size)
    cache = Path(config.data.cache) if config.data.cache else Path(config.run) / "cache"
    for turn in (ranks.is_main, not ranks.is_main):  # rank 0 packs, the others read its plan
        if turn:
            loader = make_loader(config, inputs, rank=ranks.rank, world_size=ranks.world_size, cache=cache)
        ranks.barrier()
    task = PretrainingTask(loader.recipe, config.objectives, replicas=ranks.world_size * config.batch.accumulation)
    return Work(
        loader,
        task,
        RefinedWebForPreTraining,
        model_config(config, inputs),
        begin=lambda engine: load_initial(engine, config.init, inputs.tokenizer),
        caching=config.objectives.gradient_caching,
    )
