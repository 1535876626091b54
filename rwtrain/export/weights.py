"""Parameters into sharded safetensors, holding a few megabytes of them at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from tqdm import tqdm

from rwtrain.errors import ConfigError, DataError
from rwtrain.files import write_json
from rwtrain.train.zero import Parameter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # in safetensors headers
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500MB` or `2GiB`; raise `ConfigError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise ConfigError(f"{text!r} is not a size: write a number and a unit, for example 5GB or 500MiB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def plan_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut into shards of at most `max_shard_bytes`; a larger tensor gets a shard of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        parameters: their number.
        hashes: file name → `content_hash`, taken while writing.
    """

    parameters: int
    hashes: dict[str, str]


def write_weights(folder: str | Path, parameters: Mapping[str, Parameter], *, dtype: torch.dtype, max_shard_bytes: int) -> Written:
    """Write `model.safetensors`, or numbered shards with `model.safetensors.index.json`.

    Memory stays at a few chunks of one parameter, whatever the size of the model.

    Args:
        parameters: what to write, in this order; tied weights must be in it once.
        dtype: type of the weights on disk.
    """
    counts = {name: math.prod(parameter.shape) for name, parameter in parameters.items()}
    shards = plan_shards({name: count * dtype.itemsize for name, count in counts.items()}, max_shard_bytes)
    weight_map: dict[str, str] = {}
    hashes: dict[str, str] = {}
    with tqdm(total=len(parameters), desc="weights", unit="tensor", leave=False, disable=None) as bar:
        for number, names in enumerate(shards, 1):
            file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            weight_map |= dict.fromkeys(names, file)
            hashes[file] = write_safetensors(Path(folder) / file, {name: parameters[name] for name in names}, dtype=dtype, progress=bar)
    total = sum(counts.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total * dtype.itemsize, "total_parameters": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(Path(folder) / "model.safetensors.index.json", index)
    return Written(total, hashes)


def write_safetensors(path: Path, parameters: Mapping[str, Parameter], *, dtype: torch.dtype, progress: tqdm) -> str:
    """One safetensors file: the header's length (8 bytes), the header (JSON, padded to 8 bytes), the tensors without gaps; returns its `content_hash`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in parameters.items():
        start, end = end, end + math.prod(parameter.shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(parameter.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = len(text).to_bytes(8, "little") + text
    digest = xxhash.xxh3_128(begin)
    with path.open("wb") as stream:
        stream.write(begin)
        for parameter in parameters.values():
            for chunk in parameter.chunks():
                data = chunk.to(dtype).view(torch.uint8).numpy().data
                stream.write(data)
                digest.update(data)
            progress.update()
        if stream.tell() != 8 + len(text) + end:
            raise DataError(
                path, f"{stream.tell() - 8 - len(text)} bytes of weights instead of {end}", "A parameter's file changed while it was read: export again"
            )
    return digest.hexdigest()
