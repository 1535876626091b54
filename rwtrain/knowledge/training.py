"""Train TransE on a store: checkpoints, exact resume, validation, early stopping and the curve.

The order of the triples and the negatives are functions of (seed, step) alone, so a run that was killed and resumed computes the
same vectors, bit for bit, as one that was not (on the same kind of machine).
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from rwtrain.errors import ConfigError, DataError
from rwtrain.files import atomic_path
from rwtrain.knowledge.evaluate import KnownAnswers, evaluate_vectors, known_answers
from rwtrain.knowledge.store import VECTORS_FOLDER, EntityStore
from rwtrain.knowledge.transe import TransE, TransEConfig
from rwtrain.knowledge.writing import write_vectors

logger = logging.getLogger(__name__)

CHECKPOINT = "transe.checkpoint.safetensors"
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

    Raises:
        DataError: the store has no training triples.
        ConfigError: the device does not exist.
    """

    def __init__(self, store: EntityStore, config: TransEConfig, *, progress: bool = True) -> None:
        self.store, self.config, self.show = store, config, progress
        self.checkpoint_path = store.folder / CHECKPOINT
        triples = store.triples("train")
        if not len(triples):
            raise DataError(store.folder, "the store has no training triples", "Import a graph with `rwtrain kg import`")
        self.triples = np.asarray(triples)
        self.steps_per_epoch = -(-len(triples) // config.batch_size)
        valid = store.triples("valid")
        chosen = np.random.default_rng([config.seed, VALIDATION_STREAM]).permutation(len(valid))[: config.valid_triples]
        self.valid = np.asarray(valid[np.sort(chosen)]) if config.evaluate_every else np.zeros((0, 3), np.int32)
        try:
            self.model = TransE(entities=len(store), relations=store.relation_count, config=config)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: {config.device} cannot be used ({str(error).splitlines()[0]}). Use device: cpu.") from error
        self.best: tuple[torch.Tensor, torch.Tensor] | None = None
        self.state = Progress(total_steps=0 if config.minutes else config.epochs * self.steps_per_epoch)
        self._known: KnownAnswers | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end, resuming if a checkpoint for the same store and settings is there; return the manifest's details."""
        if self._load_checkpoint():
            logger.info("resuming TransE at step %d of %d", self.state.step, self.state.total_steps)
        with cpu_threads(self.config.threads):
            self._train()
        entity_ND, relation_RD = self.best or (self.model.entity_ND, self.model.relation_RD)
        details = {
            "norm": self.config.norm,
            "config": self.config.model_dump(mode="json"),
            "steps": self.state.step,
            "seconds": round(self.state.seconds, 1),
            "valid_mrr": self.state.best_mrr if len(self.valid) else None,
            "history": self.state.history,
        }
        curve = plot_curve(self.state.history)
        write_vectors(
            self.store,
            entity_vectors=entity_ND.cpu().numpy(),
            relation_vectors=relation_RD.cpu().numpy(),
            details=details,
            extra_files={"curve.png": curve} if curve else None,
        )
        self.checkpoint_path.unlink(missing_ok=True)
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
                    state.total_steps = max(state.step, int(state.step * self.config.minutes * 60 / state.seconds))
                    bar.total = state.total_steps
                ended_epoch = state.step % self.steps_per_epoch == 0
                if ended_epoch or state.step == state.total_steps:
                    self._end_epoch(bar)
                    if self.config.patience and state.worse >= self.config.patience:
                        break
                if time.monotonic() - saved > self.config.checkpoint_seconds:
                    self._save_checkpoint()
                    saved = time.monotonic()

    def _step(self) -> float:
        """One update; returns its loss."""
        epoch, place = divmod(self.state.step, self.steps_per_epoch)
        if place == 0 or not hasattr(self, "_order"):
            self._order = np.random.default_rng([self.config.seed, ORDER_STREAM, epoch]).permutation(len(self.triples))
        rows = self._order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
        batch = torch.from_numpy(self.triples[rows].astype(np.int64)).to(self.config.device)
        negatives = None
        if self.config.negatives:
            drawn = np.random.default_rng([self.config.seed, NEGATIVES_STREAM, self.state.step]).integers(0, len(self.store), self.config.negatives)
            negatives = torch.from_numpy(drawn).to(self.config.device)
        loss = float(self.model.step(batch, negatives, learning_rate=self._learning_rate()))
        self.state.step += 1
        return loss

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
        tables = {"entity_vectors": self.model.entity_ND, "relation_vectors": self.model.relation_RD}
        figures = evaluate_vectors(self.valid, **tables, known=self._known, norm=self.config.norm)
        if figures["mrr"] > self.state.best_mrr:
            self.state.best_mrr, self.state.worse = figures["mrr"], 0
            self.best = (self.model.entity_ND.clone(), self.model.relation_RD.clone())
        else:
            self.state.worse += 1
        return {"mrr": figures["mrr"], "hits10": figures["hits10"]}

    def _tensors(self) -> dict[str, torch.Tensor]:
        model = self.model
        tensors = {
            "entity": model.entity_ND,
            "relation": model.relation_RD,
            "entity_square": model.entity_optimizer.square,
            "relation_square": model.relation_optimizer.square,
        }
        if self.best:
            tensors |= {"best_entity": self.best[0], "best_relation": self.best[1]}
        return tensors

    def _identity(self) -> str:
        settings = self.config.model_dump(mode="json", exclude={"checkpoint_seconds"})
        return json.dumps({"store": self.store.hash, "triples": len(self.triples), "config": settings}, sort_keys=True)

    def _save_checkpoint(self) -> None:
        metadata = {"identity": self._identity(), "progress": json.dumps(vars(self.state))}
        with atomic_path(self.checkpoint_path) as temporary:
            save_file(self._tensors(), temporary, metadata=metadata)

    def _load_checkpoint(self) -> bool:
        path = self.checkpoint_path
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt", device=self.config.device) as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") != self._identity():
                    logger.warning("%s belongs to other settings or another graph: starting from the beginning", path)
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
                self.state = Progress(**json.loads(metadata["progress"]))
            for name, tensor in self._tensors().items():
                tensor.copy_(tensors[name])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(path, f"not a readable checkpoint ({error})", "Delete it to train from the beginning") from error
        if "best_entity" in tensors:
            self.best = (tensors["best_entity"], tensors["best_relation"])
        return True


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


def plot_curve(history: list[dict[str, float]]) -> bytes | None:
    """Loss and validation MRR against epochs as a PNG; None (with a warning) where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("no curve is drawn: matplotlib is not installed (pip install matplotlib)")
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([entry["epoch"] for entry in history], [entry["loss"] for entry in history], color="tab:blue", label="training loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    validated = [entry for entry in history if "mrr" in entry]
    if validated:
        right = axes.twinx()
        right.plot([entry["epoch"] for entry in validated], [entry["mrr"] for entry in validated], color="tab:orange", marker="o", markersize=3)
        right.set_ylabel("validation MRR (filtered)", color="tab:orange")
    axes.set_title("TransE")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
