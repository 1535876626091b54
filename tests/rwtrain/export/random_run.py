"""A run folder with a finished checkpoint of random weights, as `rwtrain train` leaves it (ZeRO stage 0 layout)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from rwtrain.data.tokenizer import Tokenizer
from rwtrain.files import content_hash, write_json, write_text
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


def make_run(folder: Path, settings: dict[str, Any], **config: Any) -> RefinedWebForPreTraining:
    """Write a run folder and return its model; `config` overrides the model's configuration."""
    tokenizer = Path(settings["data"]["tokenizer"])
    shape: dict[str, Any] = {
        "vocab_size": Tokenizer(tokenizer).vocab_size,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "embedding_dim": 16,
        "entity_dim": 12,
        "gate_bias_init": 0.0,  # half open, so that an entity that enters at the wrong place is noticed
        "initializer_range": 0.3,  # large, so that every difference shows
        "max_position_embeddings": 256,
        "vision_config": VISION,
        "image_seq_length": 4,
    }
    torch.manual_seed(7)
    model = RefinedWebForPreTraining(RefinedWebConfig(**(shape | config)))
    checkpoint = folder / "checkpoints" / "step-00000007"
    (checkpoint / "state").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    shutil.copyfile(tokenizer, folder / "tokenizer" / "tokenizer.model")
    model.config.save_pretrained(folder / "model")
    write_text(folder / "config.yaml", yaml.safe_dump({**settings, "run": str(folder)}))
    write_text(folder / "metrics.jsonl", '{"process": 0, "step": 7, "step_s": 1800.0, "loss/total": 3.25}\n{"process": 0, "step": 8, "loss/total": 3.0}\n')
    state = checkpoint / "state" / "mp_rank_00_model_states.pt"
    torch.save({"module": model.state_dict()}, state)
    files = {"state/" + state.name: {"bytes": state.stat().st_size, "hash": content_hash(state)}}
    write_json(checkpoint / "manifest.json", {"step": 7, "world_size": 1, "zero_stage": 0, "files": files})
    write_text(folder / "checkpoints" / "latest", checkpoint.name + "\n")
    return model.eval()
