"""From an encoded image file to the pixels the vision encoder reads: the one definition for training, evaluation and export."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from rwtrain.errors import RWTrainError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000  # a larger header is taken for a decompression bomb


def decode_image(encoded: bytes) -> Image.Image:
    """The image as RGB, transparency laid over white; a file with several frames gives its first.

    Raises:
        RWTrainError: the bytes are no image of a known format, are cut short, or claim more than `MAX_PIXELS` pixels.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RWTrainError(f"An image claims {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}. Scale it down or leave it out.")
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise RWTrainError(f"An image of {len(encoded)} bytes cannot be decoded ({error}). Use a whole {', '.join(FORMATS)} file or leave it out.") from error


def preprocess_image(encoded: bytes, size: int) -> np.ndarray:
    """Pixels [3, size, size] float32 in [−1, 1]: RGB, bicubic resize to a square, scaled to [0, 1], (x − 0.5) / 0.5.

    The arithmetic is that of transformers' SigLIP image processor, which exported models use, so the pixels are equal.

    Args:
        encoded: a PNG, JPEG, WebP, GIF, BMP or TIFF file.
        size: width and height in pixels.

    Raises:
        RWTrainError: as `decode_image`.
    """
    image = decode_image(encoded).resize((size, size), Image.Resampling.BICUBIC)
    return normalize((np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """[height, width, 3] float32 in [0, 1] → [3, height, width] in [−1, 1]."""
    half = np.float32(0.5)
    return np.ascontiguousarray(((pixels - half) / half).transpose(2, 0, 1))
