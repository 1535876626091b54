"""Class-labelled images in IDX files (the MNIST family), captioned from their class names."""

from __future__ import annotations

import io
import itertools
import math
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.hashing import hash64
from data_prep.inputs import open_input, size_of
from data_prep.records import Record
from data_prep.source_plan import IdxSource, LabelledImages
from data_prep.sources.plain import decompressed
from data_prep.sources.spans import Cuts, Span
from rwtrain.errors import DataError

IMAGES_PER_UNIT = 2000
UINT8 = 8


def cut(source: IdxSource, path: str, prefix: Path, *, unit_bytes: int) -> Cuts:
    """Stretches of a fixed number of images, whatever `unit_bytes`."""
    count = len(read_idx(next(pair.labels for pair in source.files if pair.images == path)))
    weight = size_of(path)
    edges = [*range(0, count, IMAGES_PER_UNIT), count]
    return Cuts([(start, stop, weight * (stop - start) // count) for start, stop in itertools.pairwise(edges)])


def read(source: IdxSource, span: Span, *, seed: int) -> Iterator[Record]:
    """Images re-encoded as PNG, each with one of the templates as its caption; the class decides `content_id`."""
    pair = next(pair for pair in source.files if (pair.images, (pair.labels,)) == (span.path, span.companions))
    images, labels = read_pair(pair)
    for number in range(span.start, span.stop):
        name = class_name(source, pair, int(labels[number]), number)
        doc_id = f"{source.name}:{span.label}:{number}"
        template = source.templates[hash64(doc_id, seed) % len(source.templates)]
        yield Record(
            doc_id,
            f"{span.path}#{number}",
            text=template.replace("{}", name),
            language=source.language,
            split=pair.split,
            content_id=hash64(f"{source.name}\0{name}"),
            images=[png(images[number])],
        )


def read_pair(pair: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, height, width(, channels)] and class numbers [count]; raise `DataError` if they do not belong together."""
    images, labels = read_idx(pair.images), read_idx(pair.labels)
    if images.ndim not in (3, 4) or labels.ndim != 1:
        raise DataError(
            pair.images, f"images of shape {images.shape} and labels of shape {labels.shape}", "Give an image file and its label file, in this order"
        )
    if len(images) != len(labels):
        raise DataError(pair.labels, f"{len(labels)} labels for {len(images)} images", "Give the label file that belongs to the image file")
    return images, labels


def class_name(source: IdxSource, pair: LabelledImages, label: int, number: int) -> str:
    """Name of a class number; raise `DataError` if the plan names too few classes."""
    if label >= len(source.classes):
        raise DataError(pair.labels, f"class number {label}, but the plan names {len(source.classes)} classes", "Add the missing class names", record=number)
    return source.classes[label]


def png(image: np.ndarray) -> bytes:
    """A uint8 image as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=4)
def read_idx(path: str) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, plain or gzip.

    Raises:
        DataError: the file cannot be read, is cut short or is no IDX file of bytes.
    """
    try:
        with decompressed(open_input(path), path) as stream:
            data = stream.read()
    except (OSError, EOFError) as error:
        raise DataError(path, f"cannot be read ({error})", "Check the path, or download the file again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UINT8 or len(data) < 4 + 4 * data[3]:
        raise DataError(path, "not an IDX file of unsigned bytes", "Give a file in the format of the MNIST family")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = data[4 + 4 * data[3] :]
    if len(body) != math.prod(shape):
        raise DataError(path, f"{len(body)} bytes of data for shape {shape}", "The file is cut short: download it again")
    return np.frombuffer(body, np.uint8).reshape(shape)
