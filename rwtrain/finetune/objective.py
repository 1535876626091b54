"""The losses of fine-tuning, each a mean over the examples of the whole global batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from rwtrain.finetune.loading import TaskBatch
from rwtrain.finetune.tasks import Head, Kind
from rwtrain.objectives.task import Cached, TaskOutput


class FinetuningTask:
    """Turns batches of examples into one loss.

    Args:
        slots: examples that a micro-batch has room for.
        score_range: lowest and highest score of a regression.
        replicas: ranks × accumulation steps; the engine averages gradients over them.
    """

    weights = [1.0]
    contrasts = False

    def __init__(self, kind: Kind, head: Head, *, slots: int, score_range: tuple[float, float], replicas: int) -> None:
        self.kind, self.head, self.slots, self.replicas = kind, head, slots, replicas
        self.low, self.high = score_range
        self.names: Sequence[str] = ({"classify": "classification", "regress": "regression", "answer": "answer"}[kind],)

    def counts(self, batch: TaskBatch) -> torch.Tensor:
        return batch.valid.sum().double()[None]

    def label_tokens(self, counts: torch.Tensor) -> float:
        return 0.0

    def cache(self, model: torch.nn.Module, batches: Sequence[TaskBatch], counts: torch.Tensor) -> list[Cached]:
        raise NotImplementedError("nothing is contrasted between micro-batches")

    def __call__(self, model: torch.nn.Module, batch: TaskBatch, counts: torch.Tensor, cached: Cached | None = None) -> TaskOutput:
        losses = {"classifier": self._classifier, "embedding": self._embedding, "answer": self._answer}[self.head](model, batch)
        total = (losses * batch.valid).sum()
        return TaskOutput(total * (self.replicas / max(float(counts[0]), 1.0)), total.detach().double()[None], None, {})

    def _read(self, model: torch.nn.Module, batch: TaskBatch, **more: Any) -> Any:
        return model(input_ids=batch.input_ids, position_ids=batch.position_ids, block_sequence_ids=batch.block_sequence_ids, **more)

    def _classifier(self, model: torch.nn.Module, batch: TaskBatch) -> torch.Tensor:
        """Cross-entropy, or the squared error of the score, of each example, [slots]."""
        logits = self._read(model, batch, pool_ids=batch.pool_ids, pool_slots=self.slots)
        if self.kind == "regress":
            return (logits[:, 0] - self.low - batch.targets).square()
        return functional.cross_entropy(logits, batch.targets.long(), reduction="none")

    def _embedding(self, model: torch.nn.Module, batch: TaskBatch) -> torch.Tensor:
        """Squared error of the cosine, which is to run from 0 at the lowest score to 1 at the highest, [slots] (Reimers & Gurevych 2019)."""
        unlabelled = torch.full_like(batch.input_ids, -100)
        weights = torch.zeros(unlabelled.shape, device=unlabelled.device)
        out = self._read(model, batch, labels=unlabelled, label_weights=weights, pool_ids=batch.pool_ids, pool_slots=2 * self.slots)
        first, second = out.embeddings.split(self.slots)
        anchored = out.token_loss * 0  # the head takes part in the graph on every rank
        return ((first * second).sum(1) - (batch.targets - self.low) / (self.high - self.low)).square() + anchored

    def _answer(self, model: torch.nn.Module, batch: TaskBatch) -> torch.Tensor:
        """Mean cross-entropy of the answer's first and last token among the example's tokens, [slots]."""
        logits = self._read(model, batch).flatten(0, 1)
        slot = torch.where(batch.pool_ids < 0, self.slots, batch.pool_ids).flatten()
        losses = []
        for side, places in zip(logits.unbind(1), (batch.starts, batch.ends), strict=True):
            highest = torch.full((self.slots + 1,), -torch.inf, device=side.device).scatter_reduce(0, slot, side.detach(), "amax").clamp(min=-1e30)
            sums = torch.zeros(self.slots + 1, device=side.device).index_add(0, slot, (side - highest[slot]).exp())
            losses.append((sums.clamp(min=1e-30).log() + highest)[: self.slots] - side[places])
        return (losses[0] + losses[1]) / 2
