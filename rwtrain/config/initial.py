"""The model's shape from existing models: what `init.model`, `init.trunk` and `init.vision` say about the settings below `model`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rwtrain.config.presets import PRESETS

TRUNKS = ("llama", "mistral", "qwen2", "qwen3")  # model types that compute what this trunk computes
OWN = "refinedweb"
OWN_NAMES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act"),
    *("norm_type", "norm_position", "norm_eps", "qk_norm", "attention_bias", "attention_output_bias", "mlp_bias", "attention_dropout"),
    *("max_position_embeddings", "tie_word_embeddings", "embedding_dim", "pooling", "image_mean", "image_std"),
)
CHANGEABLE = ("max_position_embeddings", "rope_theta", "rope_scaling", "tie_word_embeddings", "attention_dropout", "vision", "image_mean", "image_std")


def adopt_shape(values: dict[str, Any]) -> dict[str, Any]:
    """The raw settings with `model` completed from the folders below `init`.

    Settings that the user gives may differ only where the weights keep their meaning (`CHANGEABLE`). A folder that is gone does not matter
    once the run has begun: its shape then is the one in RUN/config.yaml.

    Raises:
        ValueError: a folder holds no usable configuration, or a setting contradicts it.
    """
    init, given = values.get("init"), values.get("model") or {}
    if not isinstance(init, dict) or not isinstance(given, dict) or not any(init.get(name) for name in ("model", "trunk", "vision")):
        return values
    preset = PRESETS.get(str(given.get("preset")).lower(), {})
    named = {**preset, **given}
    begun = Path(str(values.get("run"))) / "config.yaml"
    found: dict[str, Any] = {}
    seq_len = int((values.get("batch") or {}).get("seq_len") or 0)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "model": own_shape,
        "trunk": lambda folder: trunk_shape(folder, seq_len=seq_len),
        "vision": vision_shape,
    }
    for name, read in readers.items():
        folder = init.get(name)
        if not folder:
            continue
        if not Path(str(folder)).is_dir() and begun.is_file():
            recorded = yaml.safe_load(begun.read_text(encoding="utf-8"))
            return values | {"model": recorded["model"] | given}
        found |= read(Path(str(folder)))
        vision = named.get("vision")
        if isinstance(vision, dict) and "model_type" not in vision and "vision" in found:  # {image_size: 384}: the folder's in another size
            named["vision"] = found["vision"] | vision
    wrong = [
        f"model.{name} is {named[name]!r}, the folder's {value!r}"
        for name, value in found.items()
        if name in named and name not in CHANGEABLE and not _equal(name, named[name], value, named)
    ]
    if wrong:
        source = "model.preset and the settings beside it" if preset else "these settings"
        raise ValueError(f"init: the weights do not fit the model: {'; '.join(wrong)}. Leave {source} out: the shape is taken from the folder")
    return values | {"model": {**found, **named}}


def _equal(name: str, given: Any, found: Any, named: dict[str, Any]) -> bool:
    if given is None:  # what None stands for
        heads = named.get("num_attention_heads")
        given = {"num_key_value_heads": heads, "head_dim": named.get("hidden_size", 0) // heads if heads else None}.get(name, found)
        given = named.get("attention_bias", False) if name == "attention_output_bias" else given
    return bool(given == found)


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; raises `ValueError` if there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise ValueError(f"init: {folder / 'config.json'} cannot be read ({error}): give a folder of a Hugging Face model") from error
    return config


def own_shape(folder: Path) -> dict[str, Any]:
    """Settings of a model that `rwtrain export` wrote."""
    from rwtrain.model.configuration_refinedweb import RefinedWebConfig

    raw = read_config(folder)
    if raw.get("model_type") != OWN:
        remedy = "init.trunk (--init-trunk) reads models of other projects"
        raise ValueError(f"init.model: {folder} holds a {raw.get('model_type')} model, not one that `rwtrain export` wrote; {remedy}")
    config = RefinedWebConfig.from_pretrained(folder)
    shape = {name: getattr(config, name) for name in OWN_NAMES} | _rope(config)
    if config.entity_dim:
        shape["gate_layers"] = config.gate_layers
    if config.vision_config is not None:
        shape["vision"] = _plain(config.vision_config)
    return shape


def trunk_shape(folder: Path, *, seq_len: int = 0) -> dict[str, Any]:
    """Settings of a trunk that computes what a Llama-family model computes.

    Raises:
        ValueError: the model is of another family, or has features that this trunk lacks.
    """
    from transformers import AutoConfig

    kind = read_config(folder).get("model_type")
    if kind not in TRUNKS:
        remedy = "use init.model (--init)" if kind == OWN else f"its computation is not this trunk's. Known: {', '.join(TRUNKS)}"
        raise ValueError(f"init.trunk: {folder} holds a {kind} model; {remedy}")
    config: Any = AutoConfig.from_pretrained(folder)
    rope = config.rope_parameters
    window = getattr(config, "sliding_window", None) if kind == "mistral" or getattr(config, "use_sliding_window", False) else None
    if window is not None and seq_len > window:
        raise ValueError(f"init.trunk: {folder} attends to {window} tokens at a time (sliding_window): lower batch.seq_len to that")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"init.trunk: {folder} rotates a part of each head only (partial_rotary_factor), which this trunk cannot")
    bias = kind == "qwen2" or bool(getattr(config, "attention_bias", False))
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "hidden_act": config.hidden_act,
        "norm_type": "rms_norm",
        "norm_position": "pre",
        "norm_eps": config.rms_norm_eps,
        "qk_norm": kind == "qwen3",
        "attention_bias": bias,
        "attention_output_bias": bias and kind != "qwen2",
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
    } | _rope(config)


def vision_shape(folder: Path) -> dict[str, Any]:
    """`model.vision` of an image encoder, or of the image half of a two-tower model, and the normalisation of its pixels."""
    from transformers import AutoConfig

    read_config(folder)
    config: Any = AutoConfig.from_pretrained(folder)
    config = getattr(config, "vision_config", None) or config
    if not hasattr(config, "image_size") or not hasattr(config, "hidden_size"):
        raise ValueError(f"init.vision: {folder} holds a {config.model_type} model, which has no images of a fixed size: give a SigLIP, CLIP or DINO folder")
    shape: dict[str, Any] = {"vision": _plain(config)}
    if hasattr(config, "vision_use_head"):
        shape["vision"]["vision_use_head"] = False  # pools the patches, which the trunk reads one by one
    try:
        pixels = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return shape
    mean, std = pixels.get("image_mean"), pixels.get("image_std")
    if pixels.get("do_normalize", True) and mean and std and {*mean, *std} != {0.5}:
        shape |= {"image_mean": mean, "image_std": std}
    return shape


def _rope(config: Any) -> dict[str, Any]:
    rope = {key: value for key, value in config.rope_parameters.items() if key != "rope_theta"}
    return {"rope_theta": config.rope_parameters["rope_theta"], "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope}


def _plain(config: Any) -> dict[str, Any]:
    """What differs from the defaults of its kind, and the kind."""
    different = json.loads(config.to_json_string(use_diff=True))
    dropped = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")
    return {key: value for key, value in different.items() if key not in dropped} | {"model_type": config.model_type}
