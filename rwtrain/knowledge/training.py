"""Train TransE on a store: checkpoints, exact resume, validation, early stopping and the curve.

The order of the triples and the negatives are functions of (seed, step) alone, so a run that was killed and resumed computes the
same vectors, bit for bit, as one that was not (on the same kind of machine).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from rwtrain.data.order import permute
from rwtrain.errors import ConfigError, DataError
from rwtrain.knowledge.checkpoint import Checkpoint, collected_rows
from rwtrain.knowledge.curve import plot_curve
from rwtrain.knowledge.evaluate import KnownAnswers, Scorer, evaluate_scorer, known_answers
from rwtrain.knowledge.negatives import KnownNegatives, own_answers
from rwtrain.knowledge.rows import Place
from rwtrain.knowledge.store import VECTORS_FOLDER, EntityStore
from rwtrain.knowledge.transe import TransE, TransEConfig
from rwtrain.knowledge.writing import write_vectors

logger = logging.getLogger(__name__)

MEASURED_STEPS = 50
ORDER_STREAM, NEGATIVES_STREAM, VALIDATION_STREAM = 0, 1, 2


@dataclass
class Progress:
    """Where a run stands; everything a resumed run needs besides the tensors.

    Attributes:
        step: updates done.
        total_steps: updates to do; decides the learning-rate decay.
        seconds: training wall time so far, over all attempts.
        best_mrr: best validation MRR so far.
        worse: validations since then.
        loss_sum: loss summed over the current epoch's steps.
        history: one entry an epoch: epoch, loss, seconds, and at validations mrr and hits10.
    """

    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    best_mrr: float = -1.0
    worse: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training run on one store. `run` trains, writes the vectors into the store and returns a report.

    With several ranks every one runs the same, on its part of each batch and of the table; rank 0 writes.

    Raises:
        DataError: the store has no training triples.
        ConfigError: the device does not exist.
    """

    def __init__(self, store: EntityStore, config: TransEConfig, *, progress: bool = True) -> None:
        self.store, self.config, self.place = store, config, Place.of_this_process()
        self.show = progress and self.place.rank == 0
        triples = store.triples("train")
        if not len(triples):
            raise DataError(store.folder, "the store has no training triples", "Import a graph with `rwtrain kg import`")
        self.triples = np.asarray(triples)
        self.steps_per_epoch = -(-len(triples) // config.batch_size)
        valid = store.triples("valid")
        chosen = np.random.default_rng([config.seed, VALIDATION_STREAM]).permutation(len(valid))[: config.valid_triples]
        self.valid = np.asarray(valid[np.sort(chosen)]) if config.evaluate_every else np.zeros((0, 3), np.int32)
        try:
            self.model = TransE(entities=len(store), relations=store.relation_count, config=config, place=self.place)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: {config.device} cannot be used ({str(error).splitlines()[0]}). Use device: cpu.") from error
        sizes = {"entities": len(store), "relations": store.relation_count}
        self.known_negatives = KnownNegatives(self.triples, **sizes) if config.leave_out_known else None
        self.best: torch.Tensor | None = None
        self.state = Progress(total_steps=0 if config.minutes else config.epochs * self.steps_per_epoch)
        self.checkpoint = Checkpoint(store.folder, identity=self._identity(), place=self.place)
        self._known: KnownAnswers | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end, resuming if a checkpoint for the same store and settings is there; return the manifest's details."""
        loaded = self.checkpoint.load(device=self.config.device)
        if loaded:
            tensors, progress = loaded
            self.best = tensors.pop("best", None)
            for name, tensor in self.model.table.tensors().items():
                tensor.copy_(tensors[name])
            self.state = Progress(**progress)
            self.model.steps = self.state.step
            logger.info("resuming TransE at step %d of %d", self.state.step, self.state.total_steps)
        with cpu_threads(self.config.threads):
            self._train()
        details = {
            "norm": self.config.norm,
            "config": self.config.model_dump(mode="json"),
            "steps": self.state.step,
            "seconds": round(self.state.seconds, 1),
            "valid_mrr": self.state.best_mrr if len(self.valid) else None,
            "history": self.state.history,
        }
        vectors = self.model.table.vectors if self.best is None else self.best
        with collected_rows(vectors, rows=self.model.table.rows, place=self.place, scratch=self.store.folder) as table:
            if table is not None:
                curve = plot_curve(self.state.history)
                write_vectors(
                    self.store,
                    entity_vectors=table[: len(self.store)],
                    relation_vectors=table[len(self.store) :],
                    details=details,
                    extra_files={"curve.png": curve} if curve else None,
                )
        self.checkpoint.remove()
        return details

    def _train(self) -> None:
        state = self.state
        started, saved = time.monotonic() - state.seconds, time.monotonic()
        with tqdm(total=state.total_steps or None, initial=state.step, desc="TransE", unit="step", disable=not self.show) as bar:
            while not state.total_steps or state.step < state.total_steps:
                state.loss_sum += self._step()
                bar.update()
                state.seconds = time.monotonic() - started
                if not state.total_steps and state.step >= MEASURED_STEPS:
                    assert self.config.minutes is not None
                    state.total_steps = self._agreed(max(state.step, int(state.step * self.config.minutes * 60 / state.seconds)))
                    bar.total = state.total_steps
                ended_epoch = state.step % self.steps_per_epoch == 0
                if ended_epoch or state.step == state.total_steps:
                    self._end_epoch(bar)
                    if self.config.patience and state.worse >= self.config.patience:
                        break
                if self._agreed(time.monotonic() - saved > self.config.checkpoint_seconds):
                    self._save_checkpoint()
                    saved = time.monotonic()

    def _agreed(self, value: int) -> int:
        """Rank 0's value on every rank: what clocks decide must be decided once."""
        if self.place.world_size == 1:
            return value
        box = torch.tensor([value], device=self.config.device)
        dist.broadcast(box, src=0)
        return int(box)

    def _step(self) -> float:
        """One update; returns the mean loss of a query."""
        state, config = self.state, self.config
        epoch, place = divmod(state.step, self.steps_per_epoch)
        positions = np.arange(place * config.batch_size, min((place + 1) * config.batch_size, len(self.triples)))
        order_seed = int(np.random.SeedSequence([config.seed, ORDER_STREAM, epoch]).generate_state(1, np.uint64)[0] >> 1)
        rows = permute(positions[self.place.rank :: self.place.world_size], len(self.triples), order_seed)
        batch = self.triples[rows].astype(np.int64)
        negatives = np.arange(len(self.store))
        if config.negatives:
            negatives = np.unique(np.random.default_rng([config.seed, NEGATIVES_STREAM, state.step]).integers(0, len(self.store), config.negatives))
        known = self.known_negatives.pairs(batch, negatives) if self.known_negatives else own_answers(batch, negatives)
        loss = self.model.step(batch, negatives, known, learning_rate=self._learning_rate())
        if self.place.world_size > 1:
            dist.all_reduce(loss)
        state.step += 1
        return float(loss) / (2 * len(positions))

    def _learning_rate(self) -> float:
        total, decay = self.state.total_steps, self.state.total_steps * self.config.decay_share
        if not decay:
            return self.config.learning_rate
        return self.config.learning_rate * min(1.0, (total - self.state.step) / decay)

    def _end_epoch(self, bar: tqdm) -> None:
        state = self.state
        steps = (state.step - 1) % self.steps_per_epoch + 1
        epoch = -(-state.step // self.steps_per_epoch)
        loss, state.loss_sum = state.loss_sum / steps, 0.0
        if not np.isfinite(loss):
            raise ConfigError(f"TransE: the loss became {loss} in epoch {epoch}. Lower learning_rate (now {self.config.learning_rate}).")
        entry: dict[str, float] = {"epoch": epoch, "loss": loss, "seconds": round(state.seconds, 1)}
        last = state.step == state.total_steps
        if len(self.valid) and (last or epoch % self.config.evaluate_every == 0):
            entry |= self._validate()
        state.history.append(entry)
        bar.set_postfix({key: f"{value:.3f}" for key, value in entry.items() if key in ("loss", "mrr")})

    def _validate(self) -> dict[str, float]:
        if self._known is None:
            self._known = known_answers(self.store)
        scorer = Scorer(self.model.table.vectors, entities=len(self.store), norm=self.config.norm, place=self.place)
        figures = evaluate_scorer(self.valid, scorer, known=self._known)
        if figures["mrr"] > self.state.best_mrr:
            self.state.best_mrr, self.state.worse = figures["mrr"], 0
            self.best = self.model.table.vectors.clone()
        else:
            self.state.worse += 1
        return {"mrr": figures["mrr"], "hits10": figures["hits10"]}

    def _identity(self) -> str:
        settings = self.config.model_dump(mode="json", exclude={"checkpoint_seconds"})
        return json.dumps({"store": self.store.hash, "triples": len(self.triples), "config": settings}, sort_keys=True)

    def _save_checkpoint(self) -> None:
        best = {} if self.best is None else {"best": self.best}
        self.checkpoint.save(self.model.table.tensors() | best, vars(self.state))


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_transe(store: EntityStore, config: TransEConfig, *, progress: bool = True, force: bool = False) -> dict[str, Any]:
    """Train TransE on `store` and write the vectors into it; return how it went (settings, steps, seconds, valid_mrr, history).

    Vectors already trained with the same settings are kept unless `force`. A killed run is resumed.
    """
    if not force and (store.folder / VECTORS_FOLDER).is_dir():
        details = store.vectors_manifest
        if details.get("config") == config.model_dump(mode="json"):
            logger.info("%s already holds vectors trained with these settings", store.folder)
            return details
    details = Trainer(store, config, progress=progress).run()
    for name in ("vectors", "relation_vectors", "vectors_manifest"):
        vars(store).pop(name, None)
    return details
