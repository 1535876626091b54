"""The numbers of a look inside are the model's own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.inside import look, look_at_image
from rwtrain.apps.model import AppModel
from rwtrain.errors import DataError, RWTrainError
from rwtrain.model.processing_refinedweb import RefinedWebProcessor

TEXT = "Here entity 3 met entity 17 once more."


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_links_and_openness(app: AppModel, processor: RefinedWebProcessor) -> None:
    found = look(app, TEXT)
    assert [(TEXT[link.start : link.end], link.label) for link in found.links] == [("entity 3", "entity 3"), ("entity 17", "entity 17")]
    inputs = processor(text=[TEXT], link=True, mode="causal")
    with torch.inference_mode():
        gates = app.model.model(**inputs).gates
    openness = np.array(found.openness)
    assert openness.shape == (len(found.gate_layers), len(found.tokens))
    last_tokens = [link.end_token - 1 for link in found.links]
    assert np.flatnonzero(openness[0]).tolist() == last_tokens
    assert openness[0, last_tokens] == pytest.approx((1 - gates[0][0]).mean(-1).numpy(), abs=1e-6)
    assert "".join(found.tokens) == TEXT


def test_expected_entities_withhold_the_mention_itself(app: AppModel, processor: RefinedWebProcessor) -> None:
    found = look(app, TEXT, near=20)
    inputs = processor(text=[TEXT], mode="causal")
    with torch.inference_mode():
        hidden = app.model.model(**inputs).last_hidden_state[0, found.links[0].end_token - 1]
        query = torch.nn.functional.normalize(app.model.entity_query(hidden), dim=-1)
        cosines = torch.nn.functional.cosine_similarity(query[None], app.entity_keys)
    assert [near.cosine for near in found.entities[0]] == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-5)


def test_gallery_names_what_it_left_out(app: AppModel, pictures: Path, tmp_path: Path) -> None:
    gallery, rejected = ImageGallery.build(app, pictures, tmp_path / "gallery")
    assert gallery.names == ("0.png", "1.png", "2.png", "3.png")
    assert list(rejected) == ["broken.png"]
    assert gallery.nearest_to_image(app, (pictures / "2.png").read_bytes(), 2)[0] == ("2.png", pytest.approx(1, abs=1e-5))
    assert len(look(app, TEXT, gallery=gallery, near=3).images) == 3
    (tmp_path / "gallery" / "embeddings.npy").write_bytes(b"")
    with pytest.raises(DataError, match="look gallery"):
        ImageGallery.open(app, tmp_path / "gallery")


def test_attention_to_patches(app: AppModel) -> None:
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)).save(encoded, "PNG")
    found = look_at_image(app, encoded.getvalue(), "a picture")
    patches = app.model.config.image_seq_length
    assert found.attention.shape == (app.model.config.num_hidden_layers, len(found.tokens), patches)
    assert found.grid == (2, 2)
    shares = found.attention.sum(-1)
    assert ((shares > 0) & (shares < 1)).all()  # the rest goes to the text itself
    assert app.model.config._attn_implementation != "eager"
    with pytest.raises(RWTrainError, match="decoded"):
        look_at_image(app, b"nothing", "a picture")
