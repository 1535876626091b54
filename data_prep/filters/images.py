"""Image filters: what cannot be decoded safely, is too small, too large, too narrow, or has too little to say, goes."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from data_prep.plan import ImageNode
from data_prep.records import Record, Removed

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
Image.MAX_IMAGE_PIXELS = None  # the limit below is our own, and is looked at before any pixel is decoded


class Images:
    """Keep documents with a good image and a caption; every image is decoded once to see that it is whole."""

    name = "images"

    def __init__(self, config: ImageNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record | Removed]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Record | Removed:
        if len(record.text.split()) < self.config.min_caption_words:
            return Removed("caption too short")
        if len(record.text) > self.config.max_caption_characters:
            return Removed("caption too long")
        for data in record.images:
            if reason := self.reason(data):
                return Removed(reason)
        return record if record.images else Removed("no image")

    def reason(self, data: bytes) -> str | None:
        """Why an encoded image has to go, None if it may stay."""
        config = self.config
        if len(data) > config.max_bytes:
            return "image file too large"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    width, height = image.size
                    if min(width, height) < config.min_side:
                        return "image too small"
                    if width * height > config.max_pixels:
                        return "image too large"
                    if max(width, height) > config.max_aspect * min(width, height):
                        return "image too narrow"
                    image.load()
        except Exception:  # Pillow raises whatever its decoders meet: OSError, SyntaxError, struct.error, ValueError and others
            return "image cannot be decoded"
        return None
