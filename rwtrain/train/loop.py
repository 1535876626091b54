"""The training loop."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch
from rwtrain.data.streams import TextStream
from rwtrain.errors import RWTrainError
from rwtrain.objectives.task import LOSSES, PretrainingTask, TaskOutput
from rwtrain.train import distributed, saving
from rwtrain.train.distributed import Ranks
from rwtrain.train.engine import build_engine
from rwtrain.train.metrics import MetricsLog
from rwtrain.train.setup import check_identity, make_loader, model_config, open_inputs, prepare_run_folder
from rwtrain.train.signals import StopRequest

EXIT_STOPPED = 85  # stopped on request with a checkpoint written: start again to continue


def train(config: TrainConfig, *, fallback: bool = False) -> int:
    """Train to `config.steps`, continuing from the run's latest checkpoint; return the exit status (0, or `EXIT_STOPPED`).

    Args:
        fallback: if that checkpoint is damaged, continue from the newest one before it that is whole.
    """
    ranks = distributed.start(config.engine.timeout_s)
    try:
        stop = StopRequest()  # not before: a rank that waits in vain for the others should die of SIGTERM
        return Trainer(config, ranks, fallback=fallback).run(stop)
    except RuntimeError as error:
        if not distributed.is_lost_peer(error):
            raise
        raise RWTrainError(
            f"Rank {ranks.rank} lost the connection to another rank; the one that failed first says why. Start again to continue from the last checkpoint."
        ) from error
    finally:
        distributed.stop()


class Trainer:
    """One rank's side of a run."""

    def __init__(self, config: TrainConfig, ranks: Ranks, *, fallback: bool = False) -> None:
        self.config, self.ranks, self.folder = config, ranks, Path(config.run)
        inputs = open_inputs(config, verify=config.data.verify and ranks.is_main)
        if ranks.is_main:
            check_identity(config, inputs)
            prepare_run_folder(config, inputs, world_size=ranks.world_size)
        ranks.barrier()
        self.loader = make_loader(config, inputs, rank=ranks.rank, world_size=ranks.world_size)
        replicas = ranks.world_size * config.batch.accumulation
        self.task = PretrainingTask(self.loader.recipe, config.objectives, replicas=replicas)
        self.caching = config.objectives.gradient_caching and config.batch.accumulation > 1 and self.task.contrasts
        self.engine = build_engine(
            model_config(config, inputs),
            config.optimizer,
            resolve(config, world_size=ranks.world_size),
            steps=config.steps,
            seed=config.seed,
            activation_checkpointing=config.engine.activation_checkpointing,
        )
        self.step = saving.load(self.engine, ranks, self.folder, fallback=fallback)
        self.tokens_per_step = self.loader.recipe.rows * config.batch.seq_len * replicas
        self.log = MetricsLog(self.folder, enabled=ranks.is_main, tensorboard=config.logging.tensorboard, start=self.step, steps=config.steps)
        self.saver = saving.Saver(self.engine, ranks, self.folder, config.checkpoint, self.log.event, loaded_step=self.step)
        self.pending: list[dict[str, Any]] = []
        self.losses: list[float] = []  # since the last checkpoint
        self.stall_s: float | None = None  # what the last checkpoint took, to be reported with the next step
        if ranks.is_main:
            print(self._summary(), flush=True)

    def _summary(self) -> str:
        parameters = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.engine.module.parameters())
        overlays = ", ".join(self.config.engine.overlays)
        begin = f"continuing behind step {self.step}" if self.step else "from the beginning"
        fills = [f"{kind} rows {stream.plan.fill:.1%} full" for kind, (stream, _) in self.loader.streams.items() if isinstance(stream, TextStream)]
        return (
            f"{self.folder}: {parameters:,} parameters, {self.ranks.world_size} ranks ({overlays}), "
            f"{self.tokens_per_step:,} tokens a step, {', '.join(fills)}; {begin}"
        )

    def run(self, stop: StopRequest) -> int:
        """Train until the last step or an agreed stop."""
        stopped = False
        batches = self.loader.iterate(self.step, self.config.steps)
        try:
            for micro_batches, waited_s in batches:
                self._train_step(micro_batches, waited_s)
                self.saver.poll()
                if self.step % self.config.checkpoint.every_steps == 0:
                    self._save()
                (stopped,) = self.ranks.agree(stop.requested)
                if stopped:
                    break
            self._save_last()
        finally:
            batches.close()  # type: ignore[attr-defined]
            self._flush()
            self.log.close()
        return EXIT_STOPPED if stopped and self.step < self.config.steps else 0

    def _train_step(self, micro_batches: list[Batch], waited_s: float) -> None:
        began = time.perf_counter()
        torch.manual_seed(self.config.seed * 1_000_003 + self.step * self.ranks.world_size + self.ranks.rank)
        counts = self.ranks.total(torch.stack([self.task.counts(batch) for batch in micro_batches]).sum(0))
        outputs = []
        cached = self.task.cache(self.engine, [self._to_device(batch) for batch in micro_batches], counts) if self.caching else []
        for batch, known in itertools.zip_longest(micro_batches, cached):
            output = self.task(self.engine, self._to_device(batch), counts, known)
            self.engine.backward(output.total)
            self.engine.step()
            outputs.append(output)
        self.step += 1
        sums = self.ranks.total(torch.stack([output.sums for output in outputs]).sum(0).cpu())
        seconds = time.perf_counter() - began + waited_s
        self._record(sums, counts, outputs[-1], seconds=seconds, waited_s=waited_s)

    def _record(self, sums: torch.Tensor, counts: torch.Tensor, output: TaskOutput, *, seconds: float, waited_s: float) -> None:
        means = (sums / counts.clamp(min=1)).tolist()
        total = sum(weight * value for weight, value in zip(self.task.weights, means, strict=True))
        if not torch.isfinite(sums).all():
            raise RWTrainError(
                f"Step {self.step}: the loss is not finite ({dict(zip(LOSSES, means, strict=True))}). "
                "Lower optimizer.learning_rate, or use the bf16 or fp32 overlay."
            )
        self.losses.append(total)
        line: dict[str, Any] = {"step": self.step, "loss/total": total}
        line |= {f"loss/{name}": value for name, value, weight in zip(LOSSES, means, self.task.weights, strict=True) if weight and counts[LOSSES.index(name)]}
        line |= {
            "learning_rate": self.engine.get_lr()[0],
            "tokens_per_s": self.tokens_per_step / seconds,
            "step_s": seconds,
            "data_stall": waited_s / seconds,
        }
        if (grad_norm := self.engine.get_global_grad_norm()) is not None:  # plain fp32 without ZeRO has none
            line["grad_norm"] = float(grad_norm)
        line |= {f"inverse_temperature/{name}": float(value) for name, value in output.scales.items()}
        if output.gate_openness is not None:
            layers = self.engine.module.config.gate_layers
            line |= {f"gate_openness/layer_{layer}": value for layer, value in zip(layers, output.gate_openness.tolist(), strict=True)}
        if self.stall_s is not None:
            line["checkpoint_stall_s"], self.stall_s = self.stall_s, None
        self.pending.append(line)
        if self.step % self.config.logging.every_steps == 0:
            self._flush()

    def _flush(self) -> None:
        self.log.write(self.pending)
        self.pending = []

    def _save(self) -> None:
        began = time.perf_counter()
        self.saver.begin(self.step, loss=sum(self.losses) / len(self.losses) if self.losses else None)
        self.losses = []
        self.stall_s = time.perf_counter() - began

    def _save_last(self) -> None:
        """Leave no step behind: finish the save in flight, save what is not saved yet."""
        self.saver.finish()
        if self.saver.saved_step != self.step:
            self._save()
        self.saver.close()
        if self.saver.saved_step != self.step:
            raise RWTrainError(
                f"Step {self.step} could not be saved. Make room on the disk of {self.folder} and start again to continue from the last checkpoint."
            )

    def _to_device(self, batch: Batch) -> Batch:
        if self.ranks.device.type == "cpu":
            return batch
        moved: dict[str, Any] = {name: value.to(self.ranks.device, non_blocking=True) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(batch, **moved)
