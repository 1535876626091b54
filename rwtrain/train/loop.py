"""The training loop."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.config.settings import RunSettings
from rwtrain.data.recipe import Batch
from rwtrain.errors import RWTrainError
from rwtrain.objectives.task import TaskOutput
from rwtrain.train import distributed, saving
from rwtrain.train.distributed import Ranks
from rwtrain.train.engine import build_engine
from rwtrain.train.flops import micro_batch_flops
from rwtrain.train.guard import EXIT_DIVERGED, Diverged, Guard
from rwtrain.train.hardware import peak_tflops_of
from rwtrain.train.metrics import MetricsLog, peak_memory_gb, read_metrics, throughput
from rwtrain.train.profile import StepProfiler
from rwtrain.train.rank_log import close_rank_log, open_rank_log
from rwtrain.train.sentinel import Sentinel
from rwtrain.train.signals import StopRequest
from rwtrain.train.work import Work, pretraining

EXIT_STOPPED = 85  # stopped on request with a checkpoint written: start again to continue


def train(config: TrainConfig, *, fallback: bool = False) -> int:
    """Train to `config.steps`, continuing from the run's latest checkpoint; return the exit status (0, `EXIT_STOPPED` or `EXIT_DIVERGED`).

    Args:
        fallback: if that checkpoint is damaged, continue from the newest one before it that is whole.
    """
    return run_work(config, lambda ranks: pretraining(config, ranks), fallback=fallback)


def run_work(config: RunSettings, prepare: Callable[[Ranks], Work], *, fallback: bool = False) -> int:
    """Join the job, `prepare` the work on every rank and do it; otherwise as `train`."""
    ranks = distributed.start(config.engine.timeout_s)
    try:
        stop = StopRequest()  # not before: a rank that waits in vain for the others should die of SIGTERM
        return Trainer(config, ranks, prepare(ranks), fallback=fallback).run(stop)
    except Diverged as error:
        if ranks.is_main:
            print(f"error: {error}", file=sys.stderr)
        return EXIT_DIVERGED
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

    def __init__(self, config: RunSettings, ranks: Ranks, work: Work, *, fallback: bool = False) -> None:
        self.config, self.ranks, self.folder = config, ranks, Path(config.run)
        self.loader, self.task = work.loader, work.task
        replicas = ranks.world_size * config.batch.accumulation
        self.caching = work.caching and config.batch.accumulation > 1 and self.task.contrasts
        self.engine = build_engine(
            work.model_class,
            work.model_config,
            config.optimizer,
            resolve(config, world_size=ranks.world_size),
            steps=config.steps,
            seed=config.seed,
            activation_checkpointing=config.engine.activation_checkpointing,
        )
        self.step = saving.load(self.engine, ranks, self.folder, fallback=fallback)
        if not self.step and (told := work.begin(self.engine)) and ranks.is_main:
            print(told, flush=True)
        self.replicas, self.rows_per_step = replicas, self.loader.recipe.rows * replicas
        self.tokens_per_step = self.rows_per_step * config.batch.seq_len
        self.peak_tflops = config.logging.peak_tflops
        if self.peak_tflops is None and ranks.device.type == "cuda":
            self.peak_tflops = peak_tflops_of(torch.cuda.get_device_name(ranks.device))
        past = {line["step"]: line for line in read_metrics(self.folder) if line["step"] <= self.step} if ranks.is_main else {}
        counted = [line["loss/total"] for _, line in sorted(past.items()) if "skipped" not in line and line["loss/total"] is not None]
        self.guard = Guard(config.guard, ranks.broadcast(counted[-config.guard.spike_window :]))  # type: ignore[arg-type]
        self.log = MetricsLog(self.folder, config.logging, enabled=ranks.is_main, start=self.step, steps=config.steps)
        self.profiler = StepProfiler(self.folder, config.logging.profile_steps if ranks.is_main else None)
        self.rank_log = open_rank_log(self.folder, ranks.rank)
        self.sentinel = Sentinel(
            self.folder,
            rank=ranks.rank,
            world_size=ranks.world_size,
            limit_s=config.guard.hang_timeout_s,
            slow_limit_s=config.engine.timeout_s,
            log=self.rank_log,
        )
        self.saver = saving.Saver(self.engine, ranks, self.folder, config.checkpoint, self.log.event, loaded_step=self.step)
        self.pending: list[dict[str, Any]] = []
        self.losses: list[float] = []  # since the last checkpoint
        self.started = self.stopped = False
        self.verdict = "go on"
        self.stall_s: float | None = None  # what the last checkpoint took, to be reported with the next step
        summary = self._summary()
        self.rank_log.info("rank %d of %d, process %d on %s; %s", ranks.rank, ranks.world_size, os.getpid(), ranks.device, summary)
        self.log.event("resume" if self.step else "start", self.step, summary.removeprefix(f"{self.folder}: "))
        if ranks.is_main:
            print(summary, flush=True)

    def _summary(self) -> str:
        parameters = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.engine.module.parameters())
        overlays = ", ".join(self.config.engine.overlays)
        begin = f"continuing behind step {self.step}" if self.step else "from the beginning"
        return (
            f"{self.folder}: {parameters:,} parameters, {self.ranks.world_size} ranks ({overlays}), "
            f"{self.tokens_per_step:,} tokens a step, {self.loader.summary()}; {begin}"
        )

    def run(self, stop: StopRequest) -> int:
        """Train until the last step or an agreed stop."""
        batches = self.loader.iterate(self.step, self.config.steps)
        try:
            with self.sentinel, self.profiler:
                while self.advance(batches, stop):
                    pass
                if stopped := self.stopped:
                    self.rank_log.info("step %d: stopping on request", self.step)
                    self.log.event("stop", self.step, "on request of a signal")
                self._save_last()
        except BaseException as error:
            self.rank_log.info("ended behind step %d: %s: %s", self.step, type(error).__name__, error)
            raise
        finally:
            batches.close()
            self._flush()
            self.log.close()
            close_rank_log(self.rank_log)
        return EXIT_STOPPED if stopped and self.step < self.config.steps else 0

    def advance(self, batches: Generator[tuple[list[Batch], float], None, None], stop: StopRequest) -> bool:
        """One optimiser step and, if it is due, a checkpoint; False when there are no more batches or a rank was asked to stop."""
        self.sentinel.enter(self.step + 1, "data")
        prepared = next(batches, None)
        if prepared is None:
            return False
        micro_batches, waited_s = prepared
        began = time.perf_counter()
        counts = self._agree(micro_batches, stop)
        if self.stopped:
            return False
        self.profiler.begin(self.step + 1)
        self._train_step(micro_batches, counts, waited_s, began)
        self.profiler.end(self.step)
        self.saver.poll()
        if self.step % self.config.checkpoint.every_steps == 0:
            self._save()
        return True

    def _agree(self, micro_batches: list[Batch], stop: StopRequest) -> torch.Tensor:
        """Items that each loss averages over in the whole global batch; the same message tells whether any rank was asked to stop."""
        self.sentinel.enter(self.step + 1, "agreement", slow=not self.started)
        counts = torch.stack([self.task.counts(batch) for batch in micro_batches]).sum(0)
        *totals, asked = self.ranks.total(torch.cat([counts, counts.new_tensor([stop.requested])])).unbind()
        self.stopped = bool(asked)
        return torch.stack(totals)

    def _train_step(self, micro_batches: list[Batch], counts: torch.Tensor, waited_s: float, began: float) -> None:
        first, self.started = not self.started, True
        torch.manual_seed(self.config.seed * 1_000_003 + self.step * self.ranks.world_size + self.ranks.rank)
        outputs: list[TaskOutput] = []
        limit = self.guard.limit
        self.sentinel.enter(self.step + 1, "features", slow=first)
        cached = self.task.cache(self.engine, [self._to_device(batch) for batch in micro_batches], counts) if self.caching else []
        for index, (batch, known) in enumerate(itertools.zip_longest(micro_batches, cached)):
            self.sentinel.enter(self.step + 1, f"forward {index + 1}/{len(micro_batches)}", slow=first)
            output = self.task(self.engine, self._to_device(batch), counts, known)
            outputs.append(output)
            self.sentinel.enter(self.step + 1, f"backward {index + 1}/{len(micro_batches)}", slow=first)
            factor: torch.Tensor | float = 1.0
            if index + 1 == len(micro_batches):
                sums = self._sum_over_ranks(outputs)
                factor = self._verdict(sums, counts, limit)
            self.engine.backward(output.total * factor)
            self.sentinel.enter(self.step + 1, f"update {index + 1}/{len(micro_batches)}", slow=first)
            if index + 1 == len(micro_batches) and (stalled := self.saver.release()):
                self.stall_s = (self.stall_s or 0.0) + stalled
                began += stalled
            self.engine.step()
        self.step += 1
        seconds = time.perf_counter() - began + waited_s
        reason = self._record(sums.cpu(), counts, outputs[-1], limit, seconds=seconds, waited_s=waited_s)
        if reason is not None:
            self._skip(reason, micro_batches, outputs)

    def _sum_over_ranks(self, outputs: list[TaskOutput]) -> torch.Tensor:
        """Losses of the whole global batch, [losses], on the device: on a GPU the host does not wait for them."""
        sums = torch.stack([output.sums for output in outputs]).sum(0)
        if self.ranks.device.type == "cpu":
            return self.ranks.total(sums)
        dist.all_reduce(sums)
        return sums

    def _verdict(self, sums: torch.Tensor, counts: torch.Tensor, limit: float) -> torch.Tensor:
        """1, or NaN if the step must not count: NaN gradients make DeepSpeed drop the update on every rank and ZeRO stage, and clean up."""
        weights = torch.tensor(self.task.weights, dtype=sums.dtype, device=sums.device)
        total = (sums / counts.to(sums.device).clamp(min=1) * weights).sum()
        good = torch.isfinite(sums).all() & (total <= limit)
        return torch.where(good, 1.0, torch.nan).to(torch.float32)

    def _record(self, sums: torch.Tensor, counts: torch.Tensor, output: TaskOutput, limit: float, *, seconds: float, waited_s: float) -> str | None:
        """Note the step's figures; return why it was skipped, None if it counted."""
        means = (sums / counts.clamp(min=1)).tolist()
        total = sum(weight * value for weight, value in zip(self.task.weights, means, strict=True))
        reason = self.guard.reason(total, limit, applied=self.engine.was_step_applied())
        line: dict[str, Any] = {"step": self.step, "loss/total": total}
        line |= {
            f"loss/{name}": value
            for name, value, weight in zip(self.task.names, means, self.task.weights, strict=True)
            if weight and counts[self.task.names.index(name)]
        }
        flops = micro_batch_flops(
            self.engine.module.config, self.loader.recipe, label_tokens=self.task.label_tokens(counts) / self.replicas, world_size=self.ranks.world_size
        )
        speed = throughput(
            tokens=self.tokens_per_step,
            samples=self.rows_per_step,
            flops=sum(flops.values()) * self.replicas,
            seconds=seconds,
            world_size=self.ranks.world_size,
            peak_tflops=self.peak_tflops,
        )
        line |= {"learning_rate": max(self.engine.get_lr()), **speed, "step_s": seconds, "data_stall": waited_s / seconds, "memory_gb": peak_memory_gb()}
        if (grad_norm := self.engine.get_global_grad_norm()) is not None:  # plain fp32 without ZeRO has none
            line["grad_norm"] = float(grad_norm)
        if self.engine.fp16_enabled():
            line["loss_scale"] = float(self.engine.optimizer.loss_scale)
        line |= {f"inverse_temperature/{name}": float(value) for name, value in output.scales.items()}
        if output.gate_openness is not None:
            layers = self.engine.module.config.gate_layers
            line |= {f"gate_openness/layer_{layer}": value for layer, value in zip(layers, output.gate_openness.tolist(), strict=True)}
        if self.stall_s is not None:
            line["checkpoint_stall_s"], self.stall_s = self.stall_s, None
        if reason is None:
            self.losses.append(total)
        else:
            line["skipped"] = reason
        self.pending.append(line)
        if self.step % self.config.logging.every_steps == 0:
            self._flush()
        self.verdict = self.guard.note(total, None if reason is None or self._scaling_down(reason) else reason)
        return reason

    def _scaling_down(self, reason: str) -> bool:
        """An fp16 overflow that DeepSpeed answers by halving the loss scale: it happens every so often, and is no fault of the data."""
        return reason == "gradient not finite" and self.engine.fp16_enabled() and self.engine.optimizer.loss_scale > 1

    def _skip(self, reason: str, micro_batches: list[Batch], outputs: list[TaskOutput]) -> None:
        """Name the samples of a skipped step, then do what the guard decided."""
        mine = {kind: [int(position) for batch in micro_batches for position in batch.samples[kind]] for kind in micro_batches[0].samples}
        local = torch.stack([output.sums for output in outputs]).sum(0)
        blame = "" if torch.isfinite(local).all() else "; this rank's loss is not finite"
        self.rank_log.warning("step %d skipped: %s%s; samples %s", self.step, reason, blame, mine)
        blamed = self.ranks.gather((self.ranks.rank, mine) if blame else None)
        named = [f"rank {entry[0]} {entry[1]}" for entry in blamed if isinstance(entry, tuple)]
        self.log.event(
            "skip",
            self.step,
            f"{reason}: weights and optimiser unchanged" + (f"; not finite on {'; '.join(named)}" if named else f"; samples of rank 0 {mine}"),
        )
        if self.verdict == "go on":
            return
        guard = self.config.guard
        found = None
        if self.verdict == "rewind":
            self.saver.finish()
            self.sentinel.enter(self.step, "rewind", slow=True)
            found = saving.load(self.engine, self.ranks, self.folder)
        if not found:
            why = "there is no checkpoint to return to" if self.verdict == "rewind" else f"{guard.max_rewinds} rewinds have not helped"
            raise Diverged(
                f"Step {self.step}: {guard.max_skips} steps in a row were skipped ({reason}), and {why}. Look at the samples in {self.folder}/logs, "
                "lower optimizer.learning_rate, or start again from an older checkpoint (`rwtrain checkpoint`)."
            )
        message = f"{guard.max_skips} steps in a row skipped: weights and optimiser of step {found}, the data goes on behind step {self.step}"
        self.rank_log.warning("rewind: %s", message)
        self.log.event("rewind", self.step, message)

    def _flush(self) -> None:
        self.log.write(self.pending)
        self.pending = []

    def _save(self) -> None:
        began = time.perf_counter()
        self.sentinel.enter(self.step, "checkpoint", slow=True)
        self.saver.begin(self.step, loss=sum(self.losses) / len(self.losses) if self.losses else None)
        self.losses = []
        self.rank_log.info("step %d: saving a checkpoint", self.step)
        self.stall_s = time.perf_counter() - began

    def _save_last(self) -> None:
        """Leave no step behind: finish the save in flight, save what is not saved yet."""
        self.sentinel.enter(self.step, "checkpoint", slow=True)
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
