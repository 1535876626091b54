"""A real server with everything on, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.memorisation import build_index
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import Document, PassageIndex
from rwtrain.apps.recommend.catalogue import Item
from rwtrain.apps.recommend.recommender import save
from rwtrain.apps.recommend.training import FineTuning, make_reader


@pytest.fixture(scope="session")
def served(app: AppModel, paragraphs: list[str], datasets: tuple[Path, Path], entity_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options of `rwtrain serve` with every application."""
    folder = tmp_path_factory.mktemp("served")
    items = [Item(f"i{number}", f"thing {number} <b>bold</b>", number) for number in range(8)]
    reader = make_reader(app, items, knowledge=True, seed=0)
    reader.chosen_N[6:] = False
    save(reader, app, items, FineTuning(), folder / "model")
    model = AppModel.open(folder / "model")
    PassageIndex.build(model, [Document("doc", "\n".join(paragraphs[:6]), "<script>alert(1)</script>")], folder / "index")
    build_index(datasets[0], folder / "memory")
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28, 3), np.uint8)).save(folder / "images" / f"{number}.png")
    ImageGallery.build(model, folder / "images", folder / "gallery")
    (folder / "words").write_text("they\nwas\nwere\nhere\nhe\nhen\n")
    return {f"--{name}": str(folder / name) for name in ("model", "index", "memory", "gallery", "words")} | {
        "--store": str(entity_store),
        "--threshold": "-1000",
    }


def start(options: dict[str, str], **environment: str) -> tuple[subprocess.Popen[str], str]:
    """Start `rwtrain serve`; (process, the address that it printed)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "rwtrain.cli", "serve", *words, "--port", str(port)]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept | environment)
    assert process.stdout is not None
    said = ""
    while "http://" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    address = said.rsplit(" at ", 1)[-1].strip()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return process, address
        except OSError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    raise AssertionError("the server does not listen")


@pytest.fixture(scope="session")
def server(served: dict[str, str]) -> Iterator[str]:
    process, address = start(served)
    yield address
    process.terminate()
    process.wait(30)


def post(address: str, path: str, body: object, **headers: str) -> tuple[int, str]:
    """(status, text) of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address.split("?")[0].rstrip("/") + path, data=data, headers={"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
