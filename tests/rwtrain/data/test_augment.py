"""Augmented views: inside their bounds, a function of seed and position, and the plain image where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rwtrain.config.schema import AugmentConfig, TrainConfig
from rwtrain.data.augment import augmented, crop_box, jitter_colour
from rwtrain.data.recipe import Batch
from rwtrain.train.setup import make_loader, open_inputs

unit = st.floats(0, 0.999)


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.05, 1), st.lists(unit, min_size=4, max_size=4))
def test_a_crop_lies_inside_and_keeps_its_share(width: int, height: int, min_area: float, draws: list[float]) -> None:
    left, top, right, bottom = crop_box(width, height, min_area, np.array(draws))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = (right - left) / width, (bottom - top) / height
    assert 3 / 4 - 1e-6 <= across / down <= 4 / 3 + 1e-6
    assert across * down <= 1 + 1e-9
    if max(across, down) < 1 - 1e-9:  # not cut off at the image's edge
        assert across * down >= min_area - 1e-6


def test_a_gradient_is_cropped_and_mirrored() -> None:
    """In an image that brightens from left to right a crop covers part of the range, and a mirrored one darkens."""
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    draws = np.array([0.0, 0.5, 1.0, 0.0, 0.9, 0.5, 0.5, 0.5])  # a quarter of the area, at the right; aspect and colour unchanged
    right = augmented(ramp, 32, AugmentConfig(crop_area=0.25), draws)
    assert right.min() == pytest.approx(0.5, abs=0.01)
    assert (np.diff(right[0, :, 0]) >= 0).all()
    mirrored = augmented(ramp, 32, AugmentConfig(crop_area=0.25, mirror=1.0), draws)
    assert np.array_equal(mirrored, right[:, ::-1])
    assert np.array_equal(augmented(ramp, 32, AugmentConfig(crop_area=0.25, mirror=0.5), draws), right)


def test_colour_factors() -> None:
    pixels = np.random.default_rng(0).uniform(0.3, 0.6, (5, 4, 3)).astype(np.float32)
    same = np.array([0.5, 0.5, 0.5])
    assert np.allclose(jitter_colour(pixels, 0.4, same), pixels, atol=1e-6)
    assert np.allclose(jitter_colour(pixels, 0.4, np.array([1.0, 0.5, 0.5])), 1.4 * pixels, atol=1e-5)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.allclose(jitter_colour(pixels, 0.5, np.array([0.5, 0.0, 0.5])), grey.mean() + 0.5 * (pixels - grey.mean()), atol=1e-5)
    assert np.allclose(jitter_colour(pixels, 0.5, np.array([0.5, 0.5, 0.0])), grey[..., None] + 0.5 * (pixels - grey[..., None]), atol=1e-5)


def batch_of(settings: dict, step: int, *, rank: int = 0, world_size: int = 1, **augment: float) -> Batch:
    config = TrainConfig.model_validate({**settings, "run": "unused", "data": {**settings["data"], "augment": augment}})
    return make_loader(config, open_inputs(config, verify=False), rank=rank, world_size=world_size).micro_batch(step, 0)


def test_views_depend_on_the_position_alone(train_settings: dict) -> None:
    changes = {"crop_area": 0.3, "mirror": 0.5, "colour": 0.3}
    one = batch_of(train_settings, 4, **changes)
    shares = [batch_of(train_settings, 4, rank=rank, world_size=2, **changes).pixel_values for rank in range(2)]
    assert torch.equal(one.pixel_values, torch.cat(shares))
    plain = batch_of(train_settings, 4)
    assert torch.equal(plain.input_ids, one.input_ids)
    assert all(not torch.equal(*pair) for pair in zip(plain.pixel_values, one.pixel_values, strict=True))
    assert float(one.pixel_values.abs().max()) <= 1
    assert torch.equal(batch_of(train_settings, 4, mirror=1.0).pixel_values, plain.pixel_values.flip(-1))
