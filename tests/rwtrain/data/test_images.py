"""Pixels in training are the pixels the exported image processor gives."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from rwtrain.data.images import preprocess_image
from rwtrain.errors import RWTrainError


def encoded(array: np.ndarray, mode: str, format_name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, format_name)
    return buffer.getvalue()


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [28, 32, 100])
@pytest.mark.parametrize(
    "image",
    [
        encoded(random_pixels(28, 28), "L", "PNG"),
        encoded(random_pixels(61, 47, 3), "RGB", "PNG"),
        encoded(random_pixels(61, 47, 3), "RGB", "JPEG"),
        encoded(random_pixels(20, 30, 4), "RGBA", "PNG"),
        encoded(random_pixels(16, 16, 4), "CMYK", "JPEG"),
    ],
    ids=["grey", "rgb-png", "rgb-jpeg", "transparent", "cmyk"],
)
def test_equals_the_exported_image_processor(image: bytes, size: int) -> None:
    processor = SiglipImageProcessorPil(size={"height": size, "width": size})
    expected = processor(Image.open(io.BytesIO(image)), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(preprocess_image(image, size), expected)


def test_range_and_layout() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = 255
    result = preprocess_image(encoded(pixels, "RGB", "PNG"), 4)
    assert result.shape == (3, 4, 4)
    assert result.dtype == np.float32
    assert (result[0] == 1).all()
    assert (result[1:] == -1).all()


@pytest.mark.parametrize(
    "damage", [b"", b"not an image", encoded(random_pixels(64, 64, 3), "RGB", "PNG")[:300], encoded(random_pixels(64, 64, 3), "RGB", "JPEG")[:500]]
)
def test_undecodable_bytes_say_so(damage: bytes) -> None:
    with pytest.raises(RWTrainError, match="cannot be decoded"):
        preprocess_image(damage, 32)


def test_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(RWTrainError):
        preprocess_image(bomb, 32)
