"""Existing weights to begin with: which tensor of which folder becomes which parameter."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rwtrain.config.schema import InitConfig
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import ConfigError, DataError
from rwtrain.files import content_hash
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.stored_weights import Stored, StoredWeight, fingerprint, read_weights

EMBEDDING, HEAD, TOWER = "model.embed_tokens.weight", "lm_head.weight", "model.vision_tower."
TRUNK_PARTS = (EMBEDDING, "model.layers.", "model.norm.", HEAD)
BUFFERS = ("rotary_emb.inv_freq", ".masked_bias", "position_ids")  # old releases stored them beside the weights
POOLING = ("head.", "pooler.")  # of image encoders; the trunk reads the patches one by one
SHOWN = 5

Shapes = Mapping[str, tuple[int, ...]]


def plan_weights(init: InitConfig, shapes: Shapes, tokenizer: Tokenizer | None = None) -> dict[str, Stored]:
    """The stored tensor of every parameter that the folders hold; nothing of them is in memory yet.

    Args:
        shapes: name → shape of the model's parameters, tied ones once.
        tokenizer: of the training data, whose pieces are compared with the folder's where it has some.

    Raises:
        DataError: names every parameter that a folder lacks, holds in excess or in another shape.
    """
    planned: dict[str, Stored] = {}
    if folder := init.model or init.trunk:
        wanted = dict(shapes) if init.model else {key: shape for key, shape in shapes.items() if key.startswith(TRUNK_PARTS)}
        found = _renamed(read_weights(folder), own_names if init.model else trunk_names)
        planned = _match(Path(folder), wanted, _tokens(Path(folder), wanted, found, init, tokenizer), init)
    if init.vision:
        wanted = {key: shape for key, shape in shapes.items() if key.startswith(TOWER)}
        if not wanted:
            raise ConfigError("init.vision: this model has no image encoder. Set batch.image_rows and data.images, or leave init.vision out.")
        stored = present_names(Path(init.vision), read_weights(init.vision))
        name = tower_names(stored, [key.removeprefix(TOWER) for key in wanted])
        sized = {key: _resized(weight, wanted.get(key)) for key, weight in _renamed(stored, name).items()}
        planned |= _match(Path(init.vision), wanted, sized, init)
    return planned


def load_initial(engine: Any, init: InitConfig, tokenizer: Tokenizer) -> str:
    """Give a freshly built engine the folders' weights; returns what was done, nothing without folders. Collective."""
    if not (init.model or init.trunk or init.vision):
        return ""
    from rwtrain.train.reshard import load_parameters, parameter_shapes

    began = time.perf_counter()
    shapes = {name: tuple(shape) for group in parameter_shapes(engine) for name, shape in group.items()}
    planned = plan_weights(init, shapes, tokenizer)
    load_parameters(engine, planned)
    count = sum(math.prod(weight.shape) for weight in planned.values())
    sources = ", ".join(folder for folder in (init.model, init.trunk, init.vision) if folder)
    drawn = sum(math.prod(shape) for name, shape in shapes.items() if name not in planned)
    return f"{count:,} parameters from {sources} in {time.perf_counter() - began:.1f} s; {drawn:,} drawn from the seed"


def check_initial(init: InitConfig, shape: RefinedWebConfig, tokenizer: Tokenizer) -> None:
    """Raise what `load_initial` would raise, without an engine."""
    if not (init.model or init.trunk or init.vision):
        return
    from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining  # takes seconds, which a process that only starts ranks need not wait

    with torch.device("meta"):
        model = RefinedWebForPreTraining(shape)
    plan_weights(init, {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, tokenizer)


def fingerprints(init: InitConfig) -> dict[str, str]:
    """`fingerprint` of each folder's weights by setting, for the run's identity; a folder that is gone is left out."""
    folders = {f"init.{name}": getattr(init, name) for name in ("model", "trunk", "vision")}
    return {name: fingerprint(read_weights(folder)) for name, folder in folders.items() if folder and Path(folder).is_dir()}


def own_names(name: str) -> str:
    """An export's names are the model's."""
    return name


def trunk_names(name: str) -> str:
    """Llama's names, with or without the `model.` of its models with a head."""
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def present_names(folder: Path, stored: Mapping[str, StoredWeight]) -> dict[str, StoredWeight]:
    """An image encoder's weights under the names that this release of transformers gives them: it renames those of older ones as it loads them."""
    from transformers import AutoConfig, AutoModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    config: Any = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModel.from_config(getattr(config, "vision_config", None) or config)
    renamed = {}
    for name, weight in stored.items():
        for conversion in get_model_conversion_mapping(model, add_legacy=False):
            if isinstance(conversion, WeightRenaming):
                name = conversion.rename_source_key(name)[0]
        renamed[name] = weight
    return renamed


def tower_names(stored: Iterable[str], wanted: list[str]) -> Callable[[str], str | None]:
    """A function from an image encoder's names to the model's, None for other parts (the text half, classifiers).

    The encoder's parameters stand behind a prefix that differs from folder to folder: "", "vision_model.", "dinov2.", …
    """
    prefixes = {name[: -len(key)] for name in stored for key in wanted if name.endswith(key) and (len(name) == len(key) or name[-len(key) - 1] == ".")}
    prefix = max(sorted(prefixes), key=lambda start: sum(start + key in set(stored) for key in wanted), default="")
    parts = {key.split(".")[0] for key in wanted}

    def renamed(name: str) -> str | None:
        short = name.removeprefix(prefix)
        return TOWER + short if name.startswith(prefix) and short.split(".")[0] in parts else None

    return renamed


def _renamed(stored: Mapping[str, StoredWeight], rename: Callable[[str], str | None]) -> dict[str, StoredWeight]:
    pairs = ((rename(name), weight) for name, weight in stored.items() if not name.endswith(BUFFERS))
    return {name: weight for name, weight in pairs if name is not None}


def _tokens(folder: Path, wanted: Shapes, found: dict[str, StoredWeight], init: InitConfig, tokenizer: Tokenizer | None) -> dict[str, StoredWeight]:
    """`found` with its token embedding and head brought into this model's form, tied or not; both left out for a new vocabulary."""
    if init.vocabulary == "new":
        return {name: weight for name, weight in found.items() if name not in (EMBEDDING, HEAD)}
    embedding, head = found.get(EMBEDDING), found.get(HEAD)
    remedy = "Prepare the data with that model's tokenizer, or set init.vocabulary=new to keep only the layers"
    if embedding is not None and embedding.shape[1:] == wanted[EMBEDDING][1:] and embedding.shape != wanted[EMBEDDING]:
        raise DataError(folder, f"its vocabulary has {embedding.shape[0]:,} tokens, data.tokenizer {wanted[EMBEDDING][0]:,}", remedy)
    if tokenizer is not None and (different := different_pieces(folder, tokenizer)):
        raise DataError(folder, f"its tokenizer is not data.tokenizer: {different}", remedy)
    if HEAD not in wanted and head is not None:
        if embedding is not None and not embedding.equals(head):
            raise DataError(folder, "its head differs from its token embedding", "Set model.tie_word_embeddings=false")
        return {name: weight for name, weight in found.items() if name != HEAD}
    if HEAD in wanted and head is None and embedding is not None:
        return found | {HEAD: embedding}  # tied there, untied here: the head begins as the embedding
    return found


def different_pieces(folder: Path, tokenizer: Tokenizer) -> str | None:
    """How the folder's tokenizer differs from the data's, None if it does not, or if the folder has none."""
    if (folder / "tokenizer.model").is_file():
        return None if content_hash(folder / "tokenizer.model") == tokenizer.hash else "another tokenizer.model"
    try:
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    entries = enumerate(entry[0] for entry in vocabulary) if isinstance(vocabulary, list) else ((index, piece) for piece, index in vocabulary.items())
    pieces: dict[int, str] = dict(entries)
    other = [index for index, piece in sorted(pieces.items()) if index >= tokenizer.vocab_size or tokenizer.processor.id_to_piece(index) != piece]
    if not other:
        return None
    first = other[0]
    here = tokenizer.processor.id_to_piece(first) if first < tokenizer.vocab_size else None
    return f"{len(other):,} of {len(pieces):,} pieces differ, first number {first}: {pieces[first]!r} there, {here!r} here"


@dataclass(frozen=True)
class ResizedPositions:
    """Position embedding of an image encoder, interpolated to images of another size; class tokens and the like stay."""

    weight: StoredWeight
    shape: tuple[int, ...]
    kept: int

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """As `StoredWeight.chunks`."""
        whole = torch.cat(list(self.weight.chunks())).view(-1, self.weight.shape[-1])
        side, wanted = (math.isqrt(shape[-2] - self.kept) for shape in (self.weight.shape, self.shape))
        grid = whole[self.kept :].view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
        yield torch.cat((whole[: self.kept], grid.permute(0, 2, 3, 1).flatten(0, 2))).flatten()[start:stop]


def _resized(weight: StoredWeight, shape: tuple[int, ...] | None) -> Stored:
    """The weight, or its interpolation where it is a position embedding [(1,) patches (+ class token), width] of another number of patches."""
    if shape is None or weight.shape == shape or "position_embedding" not in weight.name or weight.shape[-1] != shape[-1] or len(shape) != len(weight.shape):
        return weight
    for kept in (0, 1, 2, 5):
        if all(math.isqrt(count - kept) ** 2 == count - kept for count in (weight.shape[-2], shape[-2]) if count > kept):
            return ResizedPositions(weight, shape, kept)
    return weight


def _match(folder: Path, wanted: Shapes, found: Mapping[str, Stored], init: InitConfig) -> dict[str, Stored]:
    """The stored tensors of the wanted parameters; raises `DataError` that names all that do not fit."""
    skipped = (EMBEDDING, HEAD) if init.vocabulary == "new" else ()
    missing = [name for name in wanted if name not in found and name not in skipped and not name.removeprefix(TOWER).startswith(POOLING)]
    unexpected = [name for name in found if name not in wanted]
    shapes = [f"{name} is {list(found[name].shape)}, not {list(shape)}" for name, shape in wanted.items() if name in found and found[name].shape != shape]
    problems = [f"wrong shape: {_listed(shapes)}"] if shapes else []
    if not init.partial or len(missing) == len(wanted):
        problems += [f"missing: {_listed(missing)}"] if missing else []
    if not init.partial:
        problems += [f"unexpected: {_listed(unexpected)}"] if unexpected else []
    if problems:
        remedy = "Correct `model`" if shapes else "Correct `model`, or set init.partial=true if these parts are meant to be new, or to be left behind"
        raise DataError(folder, f"its weights do not fit this model: {'; '.join(problems)}", remedy)
    return {name: found[name] for name in wanted if name in found}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
