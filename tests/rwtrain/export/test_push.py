"""Uploads against a hub on the loopback address: what is whole arrives whole, what is not never becomes loadable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwtrain.errors import DataError
from rwtrain.export.completeness import files_below, verify, write_list
from tests.rwtrain.export.hub import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files like those of an export; the upload does not look into them."""
    out = tmp_path / "export"
    (out / "linker").mkdir(parents=True)
    (out / "config.json").write_text('{"model_type": "refinedweb"}')
    (out / "README.md").write_text("---\nlicense: other\n---\n# model\n")
    (out / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (out / "linker" / "linker.safetensors").write_bytes(b"names")
    write_list(out, step=1)
    return out


def push(folder: Path, hub: Hub) -> subprocess.CompletedProcess[str]:
    """`rwtrain export FOLDER --push me/model`, by Git LFS: the other protocol (Xet) has a service of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "rwtrain.cli", "export", str(folder), "--push", "me/model"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_whole_folder_arrives_with_its_configuration_last(folder: Path, hub: Hub) -> None:
    done = push(folder, hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/me/model"
    assert hub.files == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [sorted(names) for names in hub.commits] == [["README.md", "linker/linker.safetensors", "model.safetensors"], ["config.json", "export.json"]]


def test_interrupted_upload_does_not_load_and_can_be_continued(folder: Path, hub: Hub) -> None:
    hub.files = {"config.json": b"of an earlier model", "model.safetensors": b"old"}
    hub.fail_at = "config.json"
    failed = push(folder, hub)
    assert failed.returncode == 2
    assert "the upload did not end" in failed.stderr
    assert "config.json" not in hub.files  # neither the old model's nor the new one's
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    hub.fail_at, sent = None, sum(request.startswith("PUT") for request in hub.requests)
    assert push(folder, hub).returncode == 0
    assert sum(request.startswith("PUT") for request in hub.requests) == sent  # the weights were there already
    assert hub.files["config.json"] == (folder / "config.json").read_bytes()


@pytest.mark.parametrize("damage", ["no list", "truncated", "changed", "missing"])
def test_half_an_export_is_refused_before_the_hub_is_asked(folder: Path, hub: Hub, damage: str) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if damage == "no list":
        (folder / "export.json").unlink()
    elif damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(content[:-1] if damage == "truncated" else b"\xff" + content[1:])
    with pytest.raises(DataError, match=r"export again with `rwtrain export`"):
        verify(folder)
    if damage == "truncated":
        assert push(folder, hub).returncode == 2
        assert hub.requests == []


def test_list_leaves_out_itself_and_the_client_s_cache(folder: Path) -> None:
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x").write_text("")
    assert set(files_below(folder)) == {"README.md", "config.json", "linker/linker.safetensors", "model.safetensors"}
    assert verify(folder)["step"] == 1
