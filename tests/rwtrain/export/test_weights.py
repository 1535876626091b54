"""Sharded weights: sizes, index, and what other readers see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rwtrain.errors import ConfigError
from rwtrain.export.weights import parse_size, plan_shards, write_weights
from rwtrain.files import content_hash
from rwtrain.train.zero import Parameter, read_parameters

STATE = {f"layer.{index}": torch.arange(100, dtype=torch.float32) + index for index in range(7)}


@pytest.fixture
def parameters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parameter]:
    folder = tmp_path_factory.mktemp("stored")
    torch.save({"module": STATE}, folder / "mp_rank_00_model_states.pt")
    return read_parameters(folder)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2**31), ("1.5kb", 1500), ("1000", 1000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 bananas"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


def test_plan_never_exceeds_the_limit_except_for_one_large_tensor() -> None:
    assert plan_shards({"a": 4, "b": 4, "c": 20, "d": 2, "e": 8}, 10) == [["a", "b"], ["c"], ["d", "e"]]


def test_shards_and_index(tmp_path: Path, parameters: dict[str, Parameter]) -> None:
    written = write_weights(tmp_path, parameters, dtype=torch.float32, max_shard_bytes=1000)
    assert written.parameters == 700
    assert written.hashes == {path.name: content_hash(path) for path in tmp_path.glob("*.safetensors")}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2800
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="pt") as shard:
            assert torch.equal(shard.get_tensor(name), STATE[name])
            assert shard.metadata() == {"format": "pt"}


def test_one_file_without_an_index_in_bfloat16(tmp_path: Path, parameters: dict[str, Parameter]) -> None:
    write_weights(tmp_path, {"layer.3": parameters["layer.3"]}, dtype=torch.bfloat16, max_shard_bytes=1000)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as shard:
        assert torch.equal(shard.get_tensor("layer.3"), STATE["layer.3"].bfloat16())
