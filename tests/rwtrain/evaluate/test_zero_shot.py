"""Zero-shot classification against a plain computation, and files that cannot be used."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rwtrain.data.images import preprocess_image
from rwtrain.errors import ConfigError, DataError
from rwtrain.evaluate.model import EvaluatedModel
from rwtrain.evaluate.zero_shot import Classes, evaluate_zero_shot

CLASSES = Classes(["shoe", "bag", "shirt"], ["a photo of a {}", "the {} here", "{}"])


def images(count: int) -> list[bytes]:
    found = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def write(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_accuracy(tmp_path: Path, model: EvaluatedModel) -> None:
    files = images(100)
    labels = np.random.default_rng(1).integers(0, 3, len(files)).tolist()
    figures = evaluate_zero_shot(model, write(tmp_path / "a.parquet", image=files, label=labels), CLASSES)
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(preprocess_image(file, 28)) for file in files])
        vectors = model.model.get_image_features(pixels)
        means = []
        for name in CLASSES.names:
            prompts = [torch.tensor([[1, *model.tokenizer.encode(template.format(name)).tolist()]]) for template in CLASSES.templates]
            means.append(torch.cat([model.model.get_text_features(prompt) for prompt in prompts]).mean(0))
        scores = torch.nn.functional.cosine_similarity(vectors[:, None], torch.stack(means)[None], dim=-1)
    expected = float((scores.argmax(1).numpy() == np.array(labels)).mean())
    assert figures["accuracy"] == pytest.approx(expected)
    assert figures["chance"] == pytest.approx(1 / 3)
    assert figures["majority"] == max(labels.count(label) for label in range(3)) / 100
    assert figures["images"] == 100


def test_names_and_image_structs_are_read(tmp_path: Path, model: EvaluatedModel) -> None:
    files = images(4)
    numbers = evaluate_zero_shot(model, write(tmp_path / "a.parquet", image=files, label=[0, 1, 2, 0]), CLASSES)
    structs = [{"bytes": file, "path": None} for file in files]
    names = evaluate_zero_shot(model, write(tmp_path / "b.parquet", image=structs, label=["shoe", "bag", "shirt", "shoe"]), CLASSES)
    assert numbers == names


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"picture": [b"x"], "label": [0]}, "no column image"),
        ({"image": images(1)}, "no column label"),
        ({"image": images(2), "label": [0, 3]}, "record 1: label 3"),
        ({"image": images(1), "label": ["hat"]}, "record 0: label 'hat'"),
        ({"image": ["text"], "label": [0]}, "record 0: the image is not bytes"),
        ({"image": [b"no image"], "label": [0]}, "cannot be decoded"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "holds no images"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, model: EvaluatedModel, columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        evaluate_zero_shot(model, write(tmp_path / "a.parquet", **columns), CLASSES)


def test_not_parquet(tmp_path: Path, model: EvaluatedModel) -> None:
    (tmp_path / "a.parquet").write_text("image,label\n")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        evaluate_zero_shot(model, tmp_path / "a.parquet", CLASSES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("classes: [a, b]", "`templates`"),
        ("classes: a\ntemplates: ['{}']", "`classes`"),
        ("classes: [a, b]\ntemplates: ['photo']", "every template"),
        ("classes: [a, a]\ntemplates: ['{}']", "two different names"),
    ],
)
def test_class_files_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        Classes.read(tmp_path / "c.yaml")
