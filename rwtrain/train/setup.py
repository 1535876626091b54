"""From a configuration to what the loop needs: checked data, the model's shape, the loader."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rwtrain.config.deepspeed import resolve
from rwtrain.config.load import dump_yaml
from rwtrain.config.model import ModelConfig
from rwtrain.config.schema import DataSource, TrainConfig
from rwtrain.data.loader import Loader, Sources, open_dataset
from rwtrain.data.mixture import Mixture
from rwtrain.data.recipe import Recipe
from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID, PAD_ID, Tokenizer
from rwtrain.errors import ConfigError
from rwtrain.files import content_hash, write_json, write_text
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.checkpoint import entries
from rwtrain.train.initial_weights import fingerprints

IDENTITY = "identity.json"
HASH_CHARACTERS = 32


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of a run.

    Attributes:
        vectors: entity vectors [entities, E], memory-mapped, or None; `vectors_hash` their checksum.
        image_size: height and width of images in pixels, 0 without images.
    """

    tokenizer: Tokenizer
    text: Sources
    pairs: ShardDataset | None
    images: Sources | None
    vectors: np.ndarray | None
    vectors_hash: str | None
    image_size: int
    image_tokens: int

    @property
    def entity_dim(self) -> int:
        return 0 if self.vectors is None else int(self.vectors.shape[1])


def open_inputs(config: TrainConfig, *, verify: bool) -> Inputs:
    """Open and check everything that the configuration names.

    Args:
        verify: compare the shards' checksums (reads every byte once).

    Raises:
        DataError, ConfigError: something is missing, damaged or does not match.
    """
    tokenizer = Tokenizer(config.data.tokenizer)
    vectors, vectors_hash, store_hash = None, None, None
    if config.data.entity_store is not None:
        from rwtrain.knowledge.store import EntityStore

        store = EntityStore.open(config.data.entity_store)
        vectors, vectors_hash, store_hash = store.vectors, store.vectors_hash, store.hash

    def open_sources(sources: list[DataSource]) -> Sources:
        datasets = [open_dataset(source.path, tokenizer, verify=verify, entity_store_hash=store_hash) for source in sources]
        return Sources(datasets, Mixture([source.weight for source in sources]))

    text = open_sources(config.data.text)
    if verify:
        for dataset in text.datasets:
            dataset.check_mentions(None if vectors is None else len(vectors))
    pairs = None
    if config.data.pairs is not None and config.batch.pair_rows and config.batch.pair_views == "given":
        pairs = open_dataset(config.data.pairs, tokenizer, verify=verify, entity_store_hash=store_hash)
    images, image_size, image_tokens = None, 0, 0
    if config.data.images is not None and config.batch.image_rows:
        images = open_sources(config.data.images)
    if config.model.vision is not None and config.batch.image_rows:
        image_size, image_tokens, _ = image_shape(config.model.vision)
    if config.batch.image_rows and image_tokens + 2 * config.batch.caption_tokens > config.batch.seq_len:
        raise ConfigError(
            f"an image ({image_tokens} tokens) and two captions of {config.batch.caption_tokens} tokens do not fit a row of "
            f"{config.batch.seq_len}: raise batch.seq_len or lower batch.caption_tokens."
        )
    return Inputs(tokenizer, text, pairs, images, vectors, vectors_hash, image_size, image_tokens)


class ImageShape(NamedTuple):
    """What a vision backbone reads and gives: height and width in pixels, tokens per image, features per token."""

    size: int
    tokens: int
    width: int


_image_shapes: dict[str, ImageShape] = {}


def image_shape(vision: dict[str, Any]) -> ImageShape:
    """What a vision backbone reads and gives, found by running it without data; the places of a feature map [1, C, H, W] count as tokens.

    Raises:
        ConfigError: transformers cannot build it, or it needs images of another size.
    """
    key = repr(vision)
    if key not in _image_shapes:  # a plan asks for the same one many times
        _image_shapes[key] = _measure_images(vision)
    return _image_shapes[key]


def _measure_images(vision: dict[str, Any]) -> ImageShape:
    from transformers import AutoConfig, AutoModel

    try:
        settings = dict(vision)
        backbone = AutoConfig.for_model(settings.pop("model_type"), **settings)
        size = int(getattr(backbone, "image_size", None) or 0)
        if not size:
            raise ConfigError(f"model.vision: {backbone.model_type} has no image size of its own. Add `image_size`, the height and width in pixels.")
        with torch.device("meta"):
            model = AutoModel.from_config(backbone).eval()
            features = model(pixel_values=torch.empty(1, 3, size, size)).last_hidden_state
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"model.vision: transformers cannot build this image encoder ({error}). Check model_type, image_size and patch_size.") from error
    if features.dim() == 4:
        features = features.flatten(2).transpose(1, 2)
    return ImageShape(size, int(features.shape[1]), int(features.shape[2]))


def model_config(config: TrainConfig, inputs: Inputs) -> RefinedWebConfig:
    """The model's configuration: the user's shape plus what follows from tokenizer, entity store and image encoder."""
    return shape_model(config, vocab_size=inputs.tokenizer.vocab_size, entity_dim=inputs.entity_dim, image_tokens=inputs.image_tokens)


def shape_model(config: TrainConfig, *, vocab_size: int, entity_dim: int, image_tokens: int) -> RefinedWebConfig:
    """The model's configuration from the user's shape and the three widths that the data decides.

    Args:
        image_tokens: tokens of one image; 0 builds a model without image encoder.
    """
    shape = config.model
    try:
        return RefinedWebConfig(
            vocab_size=vocab_size,
            **shape.model_dump(exclude={"preset", "rope_theta", "rope_scaling", "vision", "gate_layers"}),
            gate_layers=shape.gate_layers if entity_dim else [],  # type: ignore[arg-type]  # None: the model chooses
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta} | (shape.rope_scaling or {}),
            entity_dim=entity_dim,
            image_logit_bias_init=-10.0 if config.objectives.image_contrast_form == "sigmoid" else None,  # few pairs match: SigLIP's value
            vision_config=shape.vision if image_tokens else None,
            vision_width=image_shape(shape.vision).width if image_tokens and shape.vision else None,  # type: ignore[arg-type]  # None: without images
            image_seq_length=image_tokens,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
            mask_token_id=MASK_ID,
            image_token_id=IMAGE_ID,
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def make_loader(config: TrainConfig, inputs: Inputs, *, rank: int, world_size: int, cache: Path | None = None) -> Loader:
    """The loader of one rank; `cache` is a folder of packing plans."""
    recipe = Recipe.derive(config.batch, world_size=world_size, image_tokens=inputs.image_tokens, entity_dim=inputs.entity_dim)
    return Loader(
        config,
        recipe,
        rank=rank,
        world_size=world_size,
        text=inputs.text,
        pairs=inputs.pairs,
        images=inputs.images,
        vectors=inputs.vectors,
        image_size=inputs.image_size,
        cache=cache,
    )


def identity(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """What a resumed run must share with the run it continues: data, tokenizer, entities, model, batch and seed."""
    return {
        "data.text": _described(inputs.text),
        "data.images": _described(inputs.images),
        **({"data.pairs": content_hash(inputs.pairs.folder / MANIFEST)} if inputs.pairs else {}),
        "data.tokenizer": inputs.tokenizer.hash,
        "data.entity_store": inputs.vectors_hash,
        "seed": config.seed,
        **fingerprints(config.init),
        **{f"model.{key}": value for key, value in config.model.model_dump(mode="json", exclude={"preset"}).items()},
        **{f"batch.{key}": value for key, value in config.batch.model_dump(mode="json").items() if key != "accumulation"},
    }


def _described(sources: Sources | None) -> Any:
    """One source: its manifest's hash; several: hash and share of each."""
    if sources is None:
        return None
    hashes = [content_hash(dataset.folder / MANIFEST) for dataset in sources.datasets]
    return hashes[0] if len(hashes) == 1 else [[digest, count] for digest, count in zip(hashes, sources.mixture.counts, strict=True)]


def check_identity(config: TrainConfig, inputs: Inputs) -> None:
    """Refuse to continue a run whose checkpoints belong to other data or another model.

    Raises:
        ConfigError: names every setting that differs.
    """
    before, now = recorded_identity(Path(config.run)), identity(config, inputs)
    if before is None:
        return
    now |= _gone(config, before)
    before = {f"model.{key}": value for key, value in ModelConfig().model_dump(mode="json").items() if f"model.{key}" in now} | before  # of an older release
    refuse_changes(Path(config.run), before, now)


def recorded_identity(run: Path) -> dict[str, Any] | None:
    """The identity of a run that has checkpoints, None for a new one."""
    path = run / IDENTITY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() and entries(run) else None


def refuse_changes(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `ConfigError` that names every setting in which a run's identity has changed."""
    changed = [f"{name} ({_shown(before.get(name))} then, {_shown(now.get(name))} now)" for name in sorted(before | now) if before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(f"{run}: its checkpoints were made with other settings or data: {', '.join(changed)}. Restore them, or choose another `run` folder.")


def _gone(config: TrainConfig, before: dict[str, Any]) -> dict[str, Any]:
    """What was recorded of the weights to begin with whose folders are gone: a run that has begun does not need them."""
    names = (f"init.{name}" for name in ("model", "trunk", "vision") if (folder := getattr(config.init, name)) and not Path(folder).is_dir())
    return {name: before[name] for name in names if name in before}


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " + ".join(f"{count} of {_shown(digest)}" for digest, count in value)
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == HASH_CHARACTERS else str(value)


def prepare_run_folder(config: TrainConfig, inputs: Inputs, *, world_size: int) -> None:
    """Write what describes the run beside it: configuration, resolved DeepSpeed JSON, model configuration, tokenizer."""
    run = Path(config.run)
    write_text(run / "config.yaml", dump_yaml(config))
    write_json(run / "deepspeed.json", resolve(config, world_size=world_size))
    known = json.loads((run / IDENTITY).read_text(encoding="utf-8")) if (run / IDENTITY).is_file() else {}
    write_json(run / IDENTITY, identity(config, inputs) | _gone(config, known))
    model_config(config, inputs).save_pretrained(run / "model")
    (run / "tokenizer").mkdir(exist_ok=True)
    shutil.copyfile(inputs.tokenizer.path, run / "tokenizer" / "tokenizer.model")
