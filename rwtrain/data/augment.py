"""Random views of training images: crop, mirror, colour. Every view is a function of its random numbers alone."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from rwtrain.config.schema import AugmentConfig

DRAWS = 8  # random numbers of one view
MAX_LOG_ASPECT = math.log(4 / 3)  # of a crop, relative to the image (Szegedy et al. 2015, section 6)
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma


def crop_box(width: int, height: int, min_area: float, draws: np.ndarray) -> tuple[float, float, float, float]:
    """A rectangle (left, top, right, bottom) in pixels that holds `min_area` to 1 of the image's area.

    Args:
        draws: four numbers in [0, 1): area, change of aspect ratio, place across, place down.
    """
    area = min_area + (1 - min_area) * float(draws[0])
    stretch = math.exp(MAX_LOG_ASPECT * (2 * float(draws[1]) - 1) / 2)
    across, down = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = (1 - across) * float(draws[2]) * width, (1 - down) * float(draws[3]) * height
    return left, top, min(width, left + across * width), min(height, top + down * height)


def jitter_colour(pixels: np.ndarray, strength: float, draws: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation times factors within 1 ± `strength`.

    Args:
        pixels: [height, width, 3] float32 in [0, 1].
        draws: three numbers in [0, 1), one for each.
    """
    brightness, contrast, saturation = (1 + strength * (2 * draws[:3] - 1)).astype(np.float32)
    pixels = np.clip(pixels * brightness, 0, 1)
    grey = pixels @ GREY
    mean = grey.mean()
    pixels = np.clip(mean + contrast * (pixels - mean), 0, 1)
    grey = (pixels @ GREY)[..., None]
    return np.clip(grey + saturation * (pixels - grey), 0, 1)


def augmented(image: Image.Image, size: int, config: AugmentConfig, draws: np.ndarray) -> np.ndarray:
    """One random view of an RGB image, [size, size, 3] float32 in [0, 1].

    Args:
        draws: `DRAWS` numbers in [0, 1) that decide everything.
    """
    box = crop_box(image.width, image.height, config.crop_area, draws[:4]) if config.crop_area < 1 else None
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box), np.float32) / 255
    if draws[4] < config.mirror:
        pixels = pixels[:, ::-1]
    return jitter_colour(pixels, config.colour, draws[5:]) if config.colour else pixels
