"""A look inside: which entities a text links to, how far the gates open for them, what is near, and which patches of an image are attended to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.model import AppModel, Reading
from rwtrain.data.images import preprocess_image
from rwtrain.data.tokenizer import IMAGE_ID


@dataclass(frozen=True)
class Link:
    """A linked mention: characters, tokens, entity with its name, score, and the other candidates with their scores."""

    start: int
    end: int
    first_token: int
    end_token: int
    entity: int
    label: str
    score: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Near:
    """Something near in a vector space; `name` is an entity's label or an image's file, `cosine` between −1 and 1."""

    name: str
    cosine: float


@dataclass(frozen=True)
class Look:
    """What the model makes of a text.

    Attributes:
        tokens: the text's tokens as text, the begin mark first.
        links: its linked mentions.
        gate_layers: layers before which entities enter.
        openness: mean 1 − g of each token and gate layer, [gate layers][tokens]; 0 where no entity enters.
        entities: for every link, the entities whose vectors the model expects there, given the text before with the mention's own vector withheld.
        images: images of the gallery nearest to the text.
    """

    tokens: tuple[str, ...]
    links: tuple[Link, ...]
    gate_layers: tuple[int, ...]
    openness: tuple[tuple[float, ...], ...]
    entities: tuple[tuple[Near, ...], ...]
    images: tuple[Near, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def look(app: AppModel, text: str, *, gallery: ImageGallery | None = None, near: int = 5) -> Look:
    """Look at how the model reads a text causally.

    Args:
        gallery: images to compare the text with.
        near: how many entities and images to list.
    """
    reading = app.read(text)
    tokens = tuple(reading.text[start:end] for start, end in reading.offsets)
    layers = tuple(app.model.config.gate_layers)
    images = tuple(Near(*pair) for pair in gallery.nearest(app, text, near)) if gallery is not None and text.strip() else ()
    return Look(tokens, _links(app, reading, near), layers, gate_openness(app, reading), expected_entities(app, reading, near), images)


def _links(app: AppModel, reading: Reading, near: int) -> tuple[Link, ...]:
    if app.linker is None:
        return ()
    spots = [spot for spot in app.linker.explain(reading.text, left_context=app.left_context) if spot.linked]
    found = []
    for first, stop, entity in reading.spans:
        start, end = reading.offsets[first][0], reading.offsets[stop - 1][1]
        spot = next((spot for spot in spots if spot.start < end and start < spot.end and spot.candidates[0][0] == entity), None)
        ranked = [(app.linker.label(row), score) for row, score in spot.candidates] if spot is not None else [(app.linker.label(entity), 1.0)]
        span = (spot.start, spot.end) if spot is not None else (start, end)
        found.append(Link(*span, first, stop, entity, *ranked[0], tuple(ranked[1 : 1 + near])))
    return tuple(found)


@torch.inference_mode()
def gate_openness(app: AppModel, reading: Reading) -> tuple[tuple[float, ...], ...]:
    """Mean 1 − g over the hidden features of every token, [gate layers][tokens]; 0 where no entity enters."""
    openness = np.zeros((len(app.model.config.gate_layers), len(reading.ids)))
    places = app.causal_places(reading)
    inputs = app.entity_inputs([places])
    if inputs:
        gates = app.model.model(input_ids=torch.from_numpy(reading.ids)[None].to(app.device), **inputs).gates
        for layer, gate_BMD in enumerate(gates):
            openness[layer, [place for place, _ in places]] = (1 - gate_BMD[0].float()).mean(-1).cpu().numpy()[: len(places)]
    return tuple(map(tuple, openness.tolist()))


@torch.inference_mode()
def expected_entities(app: AppModel, reading: Reading, near: int) -> tuple[tuple[Near, ...], ...]:
    """For every link the entities that the model expects at its last token: cosines of entity alignment, the mention's own vector withheld."""
    places = app.causal_places(reading)
    if not places or app.linker is None:
        return ()
    ids = torch.from_numpy(reading.ids)[None].to(app.device)
    keys = app.entity_keys
    found = []
    for number, (place, _) in enumerate(places):
        hidden = app.model.model(input_ids=ids, **app.entity_inputs([places[:number]])).last_hidden_state[0, place]
        query = torch.nn.functional.normalize(app.model.entity_query(hidden).float(), dim=-1)
        cosines, rows = (keys @ query).topk(min(near, len(keys)))
        found.append(tuple(Near(app.linker.label(int(row)), float(value)) for row, value in zip(rows, cosines, strict=True)))
    return tuple(found)


@dataclass(frozen=True)
class ImageLook:
    """Attention from a text to the patches of an image.

    Attributes:
        tokens: of the text behind the image.
        attention: share of each token's attention that goes to each patch, mean over heads, [layers][tokens][patches].
        grid: patches down and across.
    """

    tokens: tuple[str, ...]
    attention: np.ndarray
    grid: tuple[int, int]


@torch.inference_mode()
def look_at_image(app: AppModel, encoded: bytes, text: str) -> ImageLook:
    """Where a text looks in an image that it continues.

    Args:
        encoded: an image file.

    Raises:
        ConfigError: the model has no image encoder.
        RWTrainError: the image cannot be decoded.
    """
    pixels = torch.from_numpy(preprocess_image(encoded, app.evaluated.image_size))[None].to(app.device)
    patches = app.model.config.image_seq_length
    reading = app.read(text, link=False, max_tokens=app.max_tokens - patches)
    ids = np.concatenate((np.full(patches, IMAGE_ID), reading.ids)).astype(np.int64)
    output = app.attending_model(input_ids=torch.from_numpy(ids)[None].to(app.device), pixel_values=pixels, output_attentions=True)
    weights = np.stack([layer[0].float().mean(0).cpu().numpy() for layer in output.attentions])
    side = int(patches**0.5)
    grid = (side, side) if side * side == patches else (1, patches)
    return ImageLook(tuple(reading.text[start:end] for start, end in reading.offsets), weights[:, patches:, :patches], grid)
