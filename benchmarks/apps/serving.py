"""A server with everything on: what the load test and the screenshots use."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.apps.answer import read_squad
from benchmarks.apps.model import OUT
from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.memorisation import build_index
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import PassageIndex
from rwtrain.apps.words import count_words
from rwtrain.files import content_hash, write_text

FOLDER = OUT / "serving"
TRAINED_ON = OUT / "prep" / "shards" / "text" / "train"
CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "boot")
PER_CLASS = 2
START_S = 120


def make_parts(data: Path, model: Path) -> dict[str, str]:
    """Options of `rwtrain serve`: SQuAD's paragraphs, the graph, Fashion-MNIST's pictures and the training spans."""
    app = AppModel.open(model)
    folder = FOLDER / f"{model.name}-{content_hash(model / 'model.safetensors')[:12]}"
    if not (folder / "index").exists():
        folder.mkdir(parents=True, exist_ok=True)
        PassageIndex.build(app, read_squad(data / "qa" / "squad2_dev_half_a.json.gz")[0], folder / "index").weigh(0.0)
    if not (folder / "gallery").exists():
        write_pictures(data / "fashion-mnist", FOLDER / "pictures")
        ImageGallery.build(app, FOLDER / "pictures", folder / "gallery")
    if not (folder / "memory").exists():
        build_index(TRAINED_ON, folder / "memory")
    options = {f"--{name}": str(folder / name) for name in ("index", "gallery", "memory")} | {"--model": str(model), "--store": str(OUT / "kg")}
    if not (FOLDER / "words.txt").exists():
        write_text(FOLDER / "words.txt", "\n".join(count_words(app, TRAINED_ON)))
    options["--words"] = str(FOLDER / "words.txt")
    relations = OUT / "answer" / "relations.safetensors"
    return options | ({"--relations": str(relations)} if relations.exists() else {})


def write_pictures(fashion: Path, out: Path) -> None:
    """The first pictures of each class of Fashion-MNIST's test set, eight times as large, as files named after it."""
    with gzip.open(fashion / "t10k-images-idx3-ubyte.gz", "rb") as stream:
        images = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(fashion / "t10k-labels-idx1-ubyte.gz", "rb") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(CLASSES):
        for copy, place in enumerate(np.flatnonzero(labels == number)[:PER_CLASS], 1):
            Image.fromarray(images[place]).resize((224, 224), Image.Resampling.BICUBIC).save(out / f"{name} {copy}.png")


@contextmanager
def server(options: dict[str, str]) -> Iterator[int]:
    """A server in a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word for pair in options.items() for word in pair]
    process = subprocess.Popen([sys.executable, "-m", "rwtrain.cli", "serve", *words, "--port", str(port)])
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
