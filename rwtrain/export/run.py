"""What a run folder holds for those who use its model: configuration, weights, tokenizer, data, metrics."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rwtrain.config.load import read_yaml
from rwtrain.data.shards import ShardDataset
from rwtrain.errors import DataError
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.checkpoint import TAG, read_manifest, resolve
from rwtrain.train.metrics import read_metrics
from rwtrain.train.zero import Parameter, read_parameters

log = logging.getLogger(__name__)
TASK_FILE = "task.json"  # what a fine-tuning run learnt


@dataclass(frozen=True)
class TrainedRun:
    """A run and one of its checkpoints. Use `TrainedRun.open`."""

    folder: Path
    checkpoint: Path
    config: RefinedWebConfig
    average: bool = False

    @classmethod
    def open(cls, path: str | Path, *, average: bool = False) -> TrainedRun:
        """Open a run folder (its latest checkpoint) or one checkpoint of it.

        Args:
            average: take the moving average of the weights (optimizer.ema_decay) for the weights.

        Raises:
            DataError: there is no finished, undamaged checkpoint, or the run folder is not complete.
        """
        checkpoint = resolve(Path(path))
        folder = checkpoint.parent.parent
        for name in ("config.yaml", "model/config.json", "tokenizer/tokenizer.model"):
            if not (folder / name).is_file():
                raise DataError(folder / name, "missing from the run folder", "Give a run folder written by `rwtrain train`, or one of its checkpoints")
        return cls(folder, checkpoint, RefinedWebConfig.from_pretrained(folder / "model"), average)

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return self.folder / "tokenizer" / "tokenizer.model"

    @property
    def step(self) -> int:
        """Optimiser steps done at the checkpoint."""
        return int(self.checkpoint.name.removeprefix("step-"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved training configuration."""
        return read_yaml(self.folder / "config.yaml")

    @cached_property
    def task(self) -> dict[str, Any] | None:
        """What a fine-tuning run learnt; None for pretraining."""
        path = self.folder / TASK_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def seq_len(self) -> int:
        """Tokens of a training row: the longest text the model has seen."""
        return int(self.settings["batch"]["seq_len"])

    @cached_property
    def datasets(self) -> dict[str, ShardDataset]:
        """The training shards that are still whole and at their place, by use: "text", "images", and of a mixture "text 2", …"""
        found, data = {}, self.settings.get("data", {})
        for name in ("text", "images"):
            folders = [data[name]] if isinstance(data.get(name), str) else [source["path"] for source in data.get(name) or []]
            for number, folder in enumerate(folders, start=1):
                try:
                    found[name if number == 1 else f"{name} {number}"] = ShardDataset(folder)
                except DataError as error:
                    log.warning("The training data is left out of account: %s", error)
        return found

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """The manifest of the prepared corpus that the text shards belong to (PREP/shards/text/train → PREP/manifest.json); empty without one."""
        if "text" not in self.datasets:
            return {}
        try:
            manifest = json.loads((self.datasets["text"].folder.resolve().parents[2] / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, IndexError):
            return {}
        return manifest if isinstance(manifest, dict) and "plan" in manifest else {}

    @property
    def linking(self) -> dict[str, Any]:
        """How the mentions of the training data were found: `left_context` and `min_score`; the defaults of `rwtrain prep` if nothing says so."""
        return {"left_context": True, "min_score": 0.0} | (self.corpus.get("plan", {}).get("link") or {})

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name, tied ones under every name; nothing of them is in memory yet."""
        return read_parameters(self.checkpoint / TAG, average=self.average)

    def state(self) -> dict[str, torch.Tensor]:
        """All parameters in float32 by name."""
        return {name: parameter.load() for name, parameter in self.parameters.items()}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The checkpoint's manifest: step, world_size, zero_stage, files."""
        return read_manifest(self.checkpoint)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` up to the checkpoint; of a step that was run twice, both."""
        return [line for line in read_metrics(self.folder) if line.get("step", 0) <= self.step]

    def rank_hours(self) -> float:
        """Wall time of all steps, repeated ones included, times the number of ranks, in hours."""
        return sum(line.get("step_s", 0.0) for line in self.metrics) * int(self.manifest["world_size"]) / 3600
