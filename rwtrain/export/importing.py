"""An exported folder as the beginning of a training run: its tokenizer, and a configuration that starts from its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.errors import ConfigError, DataError
from rwtrain.export.completeness import LIST_FILE, is_export, verify
from rwtrain.files import atomic_folder
from rwtrain.model.configuration_refinedweb import RefinedWebConfig

SETTINGS_FILE = "train.yaml"
# A continued training changes less than a first one: Ibrahim et al. 2024 (arXiv 2403.08763) warm up again, to a lower peak.
OPTIMIZER = {"learning_rate": 1e-4, "warmup_steps": 50}


def import_folder(folder: Path, out: Path, *, text: str, images: str | None, entity_store: str | None, steps: int) -> TrainConfig:
    """Write `out`/train.yaml and `out`/tokenizer/tokenizer.model; return the configuration.

    Args:
        text, images: folders of shards; need not exist yet.
        entity_store: the store that the model's linker was built from; None leaves knowledge out of the training.
        steps: optimiser steps.

    Raises:
        DataError: the folder is no whole export of a pretrained model.
        ConfigError: something else stands at `out`.
    """
    if not is_export(folder):
        raise DataError(folder, "no export of a RefinedWeb model", "Give a folder written by `rwtrain export`")
    if (folder / LIST_FILE).is_file():
        verify(folder)
    config: Any = RefinedWebConfig.from_pretrained(folder)
    if config.architectures and config.architectures[0] != "RefinedWebForCausalLM":
        raise DataError(folder, f"a fine-tuned model ({config.architectures[0]}), whose language-model head is gone", "Import the model it was fine-tuned from")
    if out.exists() and not (out / SETTINGS_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: something else stands there. Give another --out, or remove it.")
    vision = config.vision_config is not None and images is not None
    data = {"text": text, "images": images, "tokenizer": str(out / "tokenizer" / "tokenizer.model"), "entity_store": entity_store}
    settings = {
        "run": str(out / "run"),
        "steps": steps,
        "init": {
            "model": str(folder.resolve()),
            "partial": bool((config.vision_config is not None and not vision) or (config.entity_dim and not entity_store)),
        },
        "data": {key: value for key, value in data.items() if value},
        "batch": {"seq_len": min(512, config.max_position_embeddings), **({"image_rows": 8} if vision else {})},
        "optimizer": OPTIMIZER,
    }
    with atomic_folder(out) as temporary:
        (temporary / "tokenizer").mkdir()
        shutil.copyfile(folder / "tokenizer.model", temporary / "tokenizer" / "tokenizer.model")
        (temporary / SETTINGS_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return load_config(TrainConfig, out / SETTINGS_FILE)
