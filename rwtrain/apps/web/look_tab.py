"""The tab that looks inside."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from nicegui import events, ui
from PIL import Image

from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.inside import ImageLook, Look, look, look_at_image
from rwtrain.apps.web.desk import Desk
from rwtrain.apps.web.parts import button, checked, field, heading
from rwtrain.data.images import decode_image
from rwtrain.errors import RWTrainError

MAX_IMAGE_BYTES = 6 << 20
SIDE = 288
LINK_COLOUR, OPEN_COLOUR = "255, 193, 7", "25, 118, 210"


def look_tab(desk: Desk) -> None:
    """Build the tab."""
    heading("Look inside", "What the model makes of a text: linked entities, how far the gates open for them, what is near; and where it looks in an image.")
    text = field("sentence", "Sentence", "Barack Obama was born in Honolulu, the capital of Hawaii.", longest=2000)
    uploaded: dict[str, bytes] = {}

    async def inside() -> None:
        found = await desk.run(look, desk.app, checked(text, longest=2000), gallery=desk.gallery)
        result.clear()
        with result:
            _show(found, desk.gallery)

    async def at_image() -> None:
        if "image" not in uploaded:
            raise RWTrainError("Upload an image first.")
        found = await desk.run(look_at_image, desk.app, uploaded["image"], checked(text, longest=2000))
        result.clear()
        with result:
            _show_image(found, uploaded["image"])

    async def upload(event: events.UploadEventArguments) -> None:
        content = await event.file.read()
        try:
            await desk.run(decode_image, content)
        except RWTrainError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        uploaded["image"] = content
        ui.notify(f"{len(content):,} bytes", type="positive")

    with ui.row():
        button("look", "Look at the sentence", inside, icon="visibility")
        if desk.app.model.config.vision_config is not None:
            button("look-image", "Look at the image", at_image, icon="image_search")
    if desk.app.model.config.vision_config is not None:
        rejected = f"The image is larger than {MAX_IMAGE_BYTES >> 20} MB."
        ui.upload(
            label="Image", auto_upload=True, max_file_size=MAX_IMAGE_BYTES, on_upload=upload, on_rejected=lambda: ui.notify(rejected, type="negative")
        ).props("flat bordered accept=image/* id=upload").classes("full-width")
    result = ui.column().classes("full-width")


def _show(found: Look, gallery: ImageGallery | None) -> None:
    linked = {place for link in found.links for place in range(link.first_token, link.end_token)}
    with ui.row().classes("q-gutter-none").style("flex-wrap: wrap; gap: 0"):
        for place, token in enumerate(found.tokens):
            colour = f"background: rgba({LINK_COLOUR}, .45)" if place in linked else ""
            ui.label(token.replace(" ", "\u00a0") or "·").style(f"white-space: pre; {colour}")
    for number, (link, expected) in enumerate(zip(found.links, found.entities, strict=True)):
        with ui.card().classes("full-width").props("flat bordered"):
            name = "".join(found.tokens[link.first_token : link.end_token]).strip()
            ui.label(f"{name} → {link.label} ({link.score:.2f})").props("id=link-0" if number == 0 else "").classes("text-subtitle2")
            if link.others:
                ui.label("or " + ", ".join(f"{label} {score:.2f}" for label, score in link.others)).classes("text-caption text-grey-8")
            ui.label("expected here: " + ", ".join(f"{near.name} {near.cosine:.2f}" for near in expected)).classes("text-caption text-grey-8")
    if not found.links:
        ui.label("No entity is linked.")
    ui.label("Gate openness by layer and token").classes("text-subtitle2")
    widest = max((value for row in found.openness for value in row), default=0) or 1
    for layer, row in zip(found.gate_layers, found.openness, strict=True):
        with ui.element("div").style("overflow-x: auto; white-space: nowrap; max-width: 100%").props(f"id=gates-{layer}"):
            ui.label(f"layer {layer}").classes("text-caption").style("display: inline-block; width: 4.5em")
            for token, value in zip(found.tokens, row, strict=True):
                shade = f"rgba({OPEN_COLOUR}, {value / widest:.3f})" if value else "transparent"
                with ui.element("span").style(f"display: inline-block; padding: 0 1px; background: {shade}; text-align: center"):
                    ui.label(token.strip() or "·").classes("text-caption")
                    ui.label(f"{value:.3f}" if value else "\u00a0").style("font-size: 9px")
    if found.images:
        ui.label("Nearest images").classes("text-subtitle2")
        with ui.row().props("id=near-images"):
            for near in found.images:
                _thumbnail(gallery, near.name, near.cosine)


def _thumbnail(gallery: ImageGallery | None, name: str, cosine: float) -> None:
    assert gallery is not None  # there are images only then
    path = gallery.path(name)
    with ui.column().classes("items-center"):
        if path is not None:
            ui.image(_small(path)).style("width: 96px")
        ui.label(f"{Path(name).name} {cosine:.3f}").classes("text-caption")


def _small(path: Path) -> Any:
    image = decode_image(path.read_bytes())
    image.thumbnail((192, 192))
    return image


def _show_image(found: ImageLook, encoded: bytes) -> None:
    ui.label("Where each token looks (mean over layers and heads; red: much)").classes("text-subtitle2")
    shares = found.attention.mean(0)
    names = {place: token.strip() or "begin" for place, token in enumerate(found.tokens)}
    picture = ui.image(_overlay(encoded, shares[-1], found.grid)).style(f"width: {SIDE}px").props("id=attention")
    share = ui.label("").classes("text-caption").props("id=attention-share")

    def choose(place: int) -> None:
        picture.set_source(_overlay(encoded, shares[place], found.grid))
        share.text = f"{shares[place].sum():.3f} of this token's attention goes to the image"

    ui.select(names, value=len(names) - 1, label="Token", on_change=lambda event: choose(event.value))
    choose(len(names) - 1)


def _overlay(encoded: bytes, shares: np.ndarray, grid: tuple[int, int]) -> Any:
    """The image with its patches in red, the more the larger their share; [patches] shares."""
    image = decode_image(encoded).resize((SIDE, SIDE))
    heat = (shares / max(float(shares.max()), 1e-9) * 170).astype(np.uint8).reshape(grid)
    mask = Image.fromarray(heat).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    image.paste(Image.new("RGB", image.size, (229, 57, 53)), mask=mask)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return Image.open(buffer)
