"""Zero-shot image classification: the class whose prompts are nearest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from rwtrain.config.load import read_yaml
from rwtrain.errors import ConfigError, DataError, RWTrainError
from rwtrain.evaluate.model import IMAGES_PER_BATCH, EvaluatedModel


@dataclass(frozen=True)
class Classes:
    """Class names and the prompt templates they are put into."""

    names: list[str]
    templates: list[str]

    @classmethod
    def read(cls, path: str | Path) -> Classes:
        """Read a YAML file with `classes: [names]` and `templates: ["a photo of a {}", …]`; raise `ConfigError` if it is not one."""
        values = read_yaml(Path(path))
        for key in ("classes", "templates"):
            found = values.get(key)
            if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
                raise ConfigError(f"{path}: `{key}` must be a list of texts.")
        if any("{}" not in template for template in values["templates"]):
            raise ConfigError(f"{path}: every template needs {{}} where the class name goes.")
        if len(set(values["classes"])) < len(values["classes"]) or len(values["classes"]) < 2:
            raise ConfigError(f"{path}: `classes` must hold two different names or more, each once.")
        return cls(values["classes"], values["templates"])


def class_embeddings(model: EvaluatedModel, classes: Classes) -> np.ndarray:
    """Normalised mean of the prompts' embeddings, [classes, C]."""
    prompts = [template.format(name) for name in classes.names for template in classes.templates]
    means = model.embed_texts(prompts).reshape(len(classes.names), len(classes.templates), -1).mean(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def labelled_images(path: str | Path, names: list[str]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """(encoded images, class numbers) in batches from a Parquet file.

    The column `image` holds encoded files, as bytes or as a struct with `bytes`; `label` holds class numbers or names.

    Raises:
        DataError: no such file, a column is missing, or a record has no image or an unknown label.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"not a readable Parquet file ({error})", "Correct the path, or write the file again") from error
    missing = [name for name in ("image", "label") if name not in file.schema_arrow.names]
    if missing:
        raise DataError(
            path, f"no column {' and no column '.join(missing)} (it has {', '.join(file.schema_arrow.names)})", "Name the columns `image` and `label`"
        )
    number = {name: index for index, name in enumerate(names)}
    seen = 0
    for batch in file.iter_batches(batch_size=IMAGES_PER_BATCH, columns=["image", "label"]):
        images, labels = [], []
        for image, label in zip(batch.column("image").to_pylist(), batch.column("label").to_pylist(), strict=True):
            encoded = image.get("bytes") if isinstance(image, dict) else image
            index = number.get(label, -1) if isinstance(label, str) else -1 if label is None else int(label)
            if not isinstance(encoded, bytes):
                raise DataError(path, "the image is not bytes", "Store encoded PNG or JPEG files", record=seen)
            if not 0 <= index < len(names):
                raise DataError(path, f"label {label!r} is none of the {len(names)} classes", "Correct the label or the class list", record=seen)
            images.append(encoded)
            labels.append(index)
            seen += 1
        yield images, np.array(labels)


def evaluate_zero_shot(model: EvaluatedModel, path: str | Path, classes: Classes, *, max_images: int | None = None, progress: bool = False) -> dict[str, Any]:
    """Share of images whose nearest class embedding is their label's.

    Returns:
        accuracy, chance (1 / classes), majority (share of the most frequent label), per_class (recall of each class), images, classes.

    Raises:
        DataError: the file cannot be used (see `labelled_images`), is empty, or an image cannot be decoded.
    """
    targets = class_embeddings(model, classes)
    right, total = np.zeros(len(classes.names), np.int64), np.zeros(len(classes.names), np.int64)
    with tqdm(desc="images", unit="image", disable=not progress, leave=False) as bar:
        for images, labels in labelled_images(path, classes.names):
            room = len(images) if max_images is None else min(len(images), max_images - int(total.sum()))
            if room == 0:
                break
            images, labels = images[:room], labels[:room]
            try:
                found = (model.embed_images(images) @ targets.T).argmax(1)
            except ConfigError:
                raise
            except RWTrainError as error:
                raise DataError(path, f"an image among records {total.sum()} to {total.sum() + room - 1} cannot be decoded", "Write the file again") from error
            total += np.bincount(labels, minlength=len(total))
            right += np.bincount(labels[found == labels], minlength=len(total))
            bar.update(room)
    count = int(total.sum())
    if count == 0:
        raise DataError(path, "it holds no images", "Give a file with at least one labelled image")
    per_class = {name: float(r / t) for name, r, t in zip(classes.names, right, total, strict=True) if t}
    return {
        "accuracy": float(right.sum() / count),
        "chance": 1 / len(classes.names),
        "majority": float(total.max() / count),
        "images": count,
        "classes": len(classes.names),
        "per_class": per_class,
    }
