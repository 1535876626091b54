"""The resolved DeepSpeed configuration: the base, the overlays, and what follows from the training configuration."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

from rwtrain.config.settings import RunSettings
from rwtrain.errors import ConfigError


def resolve(config: RunSettings, *, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON for this run: ds_configs/base.json < overlays < values derived from `config`.

    The batch triangle is derived here and only here: train_batch_size = micro-batch × accumulation × ranks, counted in rows.

    Raises:
        ConfigError: an overlay is missing or malformed, or the global batch does not divide over the ranks.
    """
    resolved = _read("base")
    for name in config.engine.overlays:
        resolved = _merge(resolved, _read(name))
    try:
        micro_batch = sum(config.batch.rows_per_micro_batch(world_size).values())
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    derived = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.batch.accumulation,
        "train_batch_size": micro_batch * config.batch.accumulation * world_size,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "seed": config.seed,
    }
    clashing = [key for name in config.engine.overlays for key in derived if key in _read(name)]
    if clashing:
        raise ConfigError(
            f"An overlay sets {', '.join(sorted(set(clashing)))}, which rwtrain derives from batch.* and optimizer.*. Remove it from the overlay."
        )
    return resolved | derived


def _read(name: str) -> dict[str, Any]:
    folder = importlib.resources.files("ds_configs")
    path = Path(name) if name.endswith(".json") else Path(str(folder)) / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
        raise ConfigError(f"engine.overlays: no overlay {name!r}. Known: {', '.join(known)}; or give the path of a JSON file.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error}).") from error


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
