"""What is fine-tuned: an exported folder, a run folder or a checkpoint, as configuration, tokenizer and weights that are read later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwtrain.errors import DataError
from rwtrain.export.completeness import is_export
from rwtrain.export.run import TrainedRun
from rwtrain.files import content_hash
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.checkpoint import MANIFEST
from rwtrain.train.stored_weights import fingerprint, read_weights

NEW = ("score.", "qa_outputs.")  # the heads that begin at random


@dataclass(frozen=True)
class Start:
    """A model to begin with.

    Attributes:
        weights: stored tensors by name; nothing of them is in memory yet.
        identity: changes when the weights do.
    """

    path: Path
    config: RefinedWebConfig
    tokenizer: Path
    weights: Mapping[str, Any]
    identity: str

    @classmethod
    def open(cls, path: str | Path) -> Start:
        """Open a folder written by `rwtrain export`, a run folder (its latest checkpoint) or one checkpoint.

        Raises:
            DataError: there is no such model, or it is damaged.
        """
        path = Path(path)
        if is_export(path):
            if not (path / "tokenizer.model").is_file():
                raise DataError(path / "tokenizer.model", "missing from the exported folder", "Export the model again with `rwtrain export`")
            weights = read_weights(path)
            return cls(path, RefinedWebConfig.from_pretrained(path), path / "tokenizer.model", weights, fingerprint(weights))
        run = TrainedRun.open(path)
        return cls(path, run.config, run.tokenizer, run.parameters, content_hash(run.checkpoint / MANIFEST))

    def chosen(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """The stored tensors of a model's parameters; a new head may be missing or of another shape.

        Args:
            shapes: name → shape of the model's parameters, tied ones once.

        Raises:
            DataError: another parameter is missing or has another shape.
        """
        found = {name: self.weights[name] for name, shape in shapes.items() if name in self.weights and tuple(self.weights[name].shape) == shape}
        wrong = [name for name in shapes if name not in found and not name.startswith(NEW)]
        if wrong:
            raise DataError(self.path, f"lacks {', '.join(sorted(wrong)[:5])} in the model's shape", "Export the model again, or give another folder")
        return found
