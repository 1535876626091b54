"""Opening models and embedding with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rwtrain.data.images import preprocess_image
from rwtrain.data.shards import ShardDataset, ShardWriter
from rwtrain.errors import ConfigError, DataError
from rwtrain.evaluate.model import EvaluatedModel, open_model, untrained
from tests.rwtrain.export.random_run import make_run


def test_run_and_checkpoint_are_the_same_model(random_run: Path, model: EvaluatedModel) -> None:
    checkpoint = open_model(random_run / "checkpoints" / "step-00000007", device="cpu")
    saved = torch.load(random_run / "checkpoints/step-00000007/state/mp_rank_00_model_states.pt")["module"]
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
        assert torch.equal(model.model.state_dict()[name], saved[name]), name


def test_text_embeddings_do_not_depend_on_the_batch(model: EvaluatedModel) -> None:
    texts = ["short", "a much longer sentence, " * 5, "another one", ""]
    together = model.embed_texts(texts)
    for text, vector in zip(texts, together, strict=True):
        ids = [1, *model.tokenizer.encode(text).tolist()][: model.max_tokens]
        with torch.no_grad():
            alone = model.model.get_text_features(torch.tensor([ids]))[0].numpy()
        assert np.allclose(vector, alone, atol=1e-5)
        assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)


def test_image_embeddings(model: EvaluatedModel) -> None:
    encoded = io.BytesIO()
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(encoded, "PNG")
    with torch.no_grad():
        expected = model.model.get_image_features(torch.from_numpy(preprocess_image(encoded.getvalue(), 28))[None])[0].numpy()
    assert np.allclose(model.embed_images([encoded.getvalue()] * 3)[2], expected, atol=1e-5)


def test_untrained_differs_and_is_reproducible(model: EvaluatedModel) -> None:
    before = torch.random.get_rng_state()
    first, second = (untrained(model).embed_texts(["one text"]) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first, second)
    assert not np.allclose(first, model.embed_texts(["one text"]), atol=0.01)


def test_nothing_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished checkpoint"):
        open_model(tmp_path)


def test_run_without_tokenizer(tmp_path: Path, train_settings: dict) -> None:
    make_run(tmp_path / "run", train_settings)
    (tmp_path / "run" / "tokenizer" / "tokenizer.model").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.model: missing"):
        open_model(tmp_path / "run")


def test_model_without_images(tmp_path: Path, train_settings: dict) -> None:
    make_run(tmp_path / "run", train_settings, vision_config=None, image_seq_length=0)
    with pytest.raises(ConfigError, match="without images"):
        open_model(tmp_path / "run", device="cpu").embed_images([b""])


@pytest.mark.parametrize(("hash_of", "problem"), [("another", "made by tokenizer another"), (None, "is empty")])
def test_datasets_that_do_not_fit(tmp_path: Path, model: EvaluatedModel, hash_of: str | None, problem: str) -> None:
    with ShardWriter(tmp_path, vocab_size=model.tokenizer.vocab_size, tokenizer_hash=hash_of or model.tokenizer.hash):
        pass
    with pytest.raises(DataError, match=problem):
        model.check_dataset(ShardDataset(tmp_path))
