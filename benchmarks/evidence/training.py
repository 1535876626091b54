"""Training the project's own model with its own task, loader and optimiser groups in one process, without DeepSpeed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from rwtrain.config.schema import OptimizerConfig, TrainConfig
from rwtrain.data.loader import Loader
from rwtrain.data.recipe import Batch
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import LOSSES, PretrainingTask
from rwtrain.train.engine import initialize_weights, learning_rate_factor, parameter_groups
from rwtrain.train.setup import Inputs, make_loader, model_config, open_inputs

Losses = Callable[[int], Iterator[tuple[torch.Tensor, dict[str, float]]]]
"""Of a step: the scalars to differentiate, one per micro-batch, each with named figures for the curve (summed over the micro-batches)."""

Evaluate = Callable[[Any], dict[str, float]]


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclasses.dataclass
class Training:
    """What a training configuration amounts to in one process. Use `Training.open`."""

    config: TrainConfig
    inputs: Inputs
    model_config: RefinedWebConfig
    loader: Loader
    task: PretrainingTask

    @classmethod
    def open(cls, config: TrainConfig, *, vectors: np.ndarray | None = None) -> Training:
        """Open the data and derive the shapes.

        Args:
            vectors: entity vectors [entities, E] that stand for those of `config.data.entity_store`; None: its own.
        """
        inputs = open_inputs(config, verify=False)
        if vectors is not None:
            inputs = dataclasses.replace(inputs, vectors=vectors)
        loader = make_loader(config, inputs, rank=0, world_size=1)
        # Gradients of micro-batches are summed here, not averaged as in the engine: hence one replica whatever the accumulation.
        return cls(config, inputs, model_config(config, inputs), loader, PretrainingTask(loader.recipe, config.objectives, replicas=1))

    def build_model(self) -> RefinedWebForPreTraining:
        """The model with the initial weights that `rwtrain train` would draw."""
        return build_model(self.model_config, seed=self.config.seed)

    def losses(self, model: torch.nn.Module) -> Losses:
        """Every step's losses; with accumulation the contrasts see the whole global batch where the configuration asks for gradient caching."""
        caching = self.config.objectives.gradient_caching and self.config.batch.accumulation > 1 and self.task.contrasts

        def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
            batches = [to_device(batch) for batch in self.loader.step_batches(step)]
            counts = torch.stack([self.task.counts(batch) for batch in batches]).sum(0)
            cached = self.task.cache(model, batches, counts) if caching else [None] * len(batches)
            for batch, known in zip(batches, cached, strict=True):
                output = self.task(model, batch, counts, known)
                means = (output.sums.double().cpu() / counts.cpu().clamp(min=1)).tolist()
                named = {name: value for name, value, weight in zip(LOSSES, means, self.task.weights, strict=True) if weight and counts[LOSSES.index(name)]}
                if output.gate_openness is not None:
                    layers = zip(self.model_config.gate_layers, output.gate_openness.tolist(), strict=True)
                    named |= {f"gate_openness/layer_{layer}": value / len(batches) for layer, value in layers}
                yield output.total, named

        return of_step


def build_model(config: RefinedWebConfig, *, seed: int) -> RefinedWebForPreTraining:
    """A model whose initial weights depend on the seed alone."""
    model = RefinedWebForPreTraining(config)
    initialize_weights(model, seed=seed, partitioned=False)
    return model.to(device())


def to_device(batch: Batch) -> Batch:
    """The batch on the device that trains."""
    if device().type == "cpu":
        return batch
    moved = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return Batch(**{name: value.to(device()) if isinstance(value, torch.Tensor) else value for name, value in moved.items()})


def autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 products over float32 weights ("bf16"), or none ("fp32")."""
    return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")


def fit(
    model: torch.nn.Module,
    losses: Losses,
    optimizer: OptimizerConfig,
    *,
    steps: int,
    seed: int,
    precision: str = "bf16",
    evaluate: Evaluate | None = None,
    every: int = 0,
) -> list[dict[str, float]]:
    """Train with AdamW on the project's parameter groups and schedule; return the learning curve.

    Args:
        losses: of a step (see `Losses`); called as losses(0), losses(1), …
        seed: of dropout and other random choices of torch during training.
        precision: "bf16" (autocast) or "fp32".
        evaluate: figures of the model, asked for behind every `every`-th step (0: only behind the last).

    Returns:
        One point per evaluation: {"step", "cpu_s" of training alone, mean of every named loss since the point before, figures}.
    """
    adam = torch.optim.AdamW(
        parameter_groups(model, optimizer.weight_decay), lr=optimizer.learning_rate, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon
    )
    schedule = LambdaLR(adam, lambda step: learning_rate_factor(step, steps, optimizer))
    curve: list[dict[str, float]] = []
    since: list[dict[str, float]] = []
    cpu_s = 0.0
    for step in range(steps):
        began = time.process_time()
        torch.manual_seed(seed * 1_000_003 + step)
        since.append(_update(model, losses(step), adam, precision=precision, clipping=optimizer.gradient_clipping))
        schedule.step()
        cpu_s += time.process_time() - began
        if step + 1 == steps or (every and (step + 1) % every == 0):
            names = dict.fromkeys(name for named in since for name in named)
            means = {name: float(np.mean([named[name] for named in since if name in named])) for name in names}
            curve.append({"step": step + 1, "cpu_s": cpu_s, **means, **(_evaluated(model, evaluate) if evaluate else {})})
            since = []
    return curve


def _update(
    model: torch.nn.Module, parts: Iterator[tuple[torch.Tensor, dict[str, float]]], adam: torch.optim.Optimizer, *, precision: str, clipping: float
) -> dict[str, float]:
    model.train()
    named: dict[str, float] = {}
    while True:
        with autocast(precision):
            part = next(parts, None)
        if part is None:
            break
        total, figures = part
        total.backward()
        for name, value in figures.items():
            named[name] = named.get(name, 0.0) + value
    if clipping:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)
    adam.step()
    adam.zero_grad(set_to_none=True)
    return named


def _evaluated(model: torch.nn.Module, evaluate: Evaluate) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return evaluate(model)
