"""Memory and time of an export from a synthetic ZeRO-3 checkpoint, against DeepSpeed's zero_to_fp32, each in a process of its own.

Both write float32 safetensors in shards of the same size from the same files; ours also verifies every file's hash first and writes
the rest of the Hugging Face folder. The budget is two shards and 1 GB.
"""

from __future__ import annotations

import argparse
import bz2
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from rwtrain.files import content_hash, write_json, write_text
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining

ROOT = Path(__file__).parents[1]
RANKS = 4
SHARD_BYTES, QUICK_SHARD_BYTES = 10**9, 25 * 10**7
SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_attention_heads": 16, "vocab_size": 50_000}
QUICK_SHAPE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16, "vocab_size": 32_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 GB instead of 4 GB")
    parser.add_argument("--part", nargs=3, metavar=("WHO", "RUN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shard_bytes = QUICK_SHARD_BYTES if options.quick else SHARD_BYTES
    if options.part:
        run_part(*options.part, shard_bytes=shard_bytes)
        return
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        parameters = make_checkpoint(run, RefinedWebConfig(**(QUICK_SHAPE if options.quick else SHAPE), tie_word_embeddings=False))
        results = {}
        for who in ("zero_to_fp32", "ours"):
            command = [sys.executable, "-m", "benchmarks.export", *(["--quick"] if options.quick else []), "--part", who, str(run), str(Path(name) / who)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            results[who] = json.loads(done.stdout.splitlines()[-1])
        same = equal_weights(Path(name) / "ours", Path(name) / "zero_to_fp32")
    budget = 2 * shard_bytes + 10**9
    figures: dict[str, Any] = {
        "name": "export",
        "quick": options.quick,
        "parameters": parameters,
        "checkpoint_gb": parameters * 4 / 1e9,
        "peak_over_budget": results["ours"]["peak_bytes"] / budget,
        "peak_gb": results["ours"]["peak_bytes"] / 1e9,
        "peer_peak_gb": results["zero_to_fp32"]["peak_bytes"] / 1e9,
        "time_ratio": results["ours"]["seconds"] / results["zero_to_fp32"]["seconds"],
        "seconds": results["ours"]["seconds"],
        "peer_seconds": results["zero_to_fp32"]["seconds"],
        "equal_weights": same,
    }
    for key, value in figures.items():
        print(f"{key:18} {value:.3f}" if isinstance(value, float) else f"{key:18} {value}")
    print(json.dumps(figures))


def make_checkpoint(run: Path, config: RefinedWebConfig) -> int:
    """A run folder with a checkpoint of random weights, laid out as ZeRO-3 on four ranks lays it out (without Adam's moments)."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in RefinedWebForPreTraining(config).named_parameters()}
    checkpoint = run / "checkpoints" / "step-00000001"
    state = checkpoint / "state"
    state.mkdir(parents=True)
    share = sum(-(-shape.numel() // RANKS) for shape in shapes.values())
    model_state = {
        "module": {},
        "buffer_names": [],
        "param_shapes": [shapes],
        "shared_params": {},
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "ds_version": "0.19.8",
    }
    generator = torch.Generator().manual_seed(0)
    for rank in range(RANKS):
        torch.save(model_state, state / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        flat = torch.rand(share, generator=generator)
        optimizer = {"zero_stage": 3, "partition_count": RANKS, "fp32_flat_groups": [flat]}
        torch.save({"optimizer_state_dict": optimizer}, state / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    files = {str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "hash": content_hash(path)} for path in sorted(state.iterdir())}
    write_json(checkpoint / "manifest.json", {"step": 1, "world_size": RANKS, "zero_stage": 3, "files": files})
    write_text(run / "checkpoints" / "latest", checkpoint.name + "\n")
    write_text(run / "config.yaml", yaml.safe_dump({"run": str(run), "batch": {"seq_len": 512}, "data": {}}))
    config.save_pretrained(run / "model")
    make_tokenizer(run / "tokenizer")
    return sum(math.prod(shape) for shape in shapes.values())


def make_tokenizer(folder: Path) -> None:
    from data_prep.tokenizer_training import train_tokenizer

    folder.mkdir()
    with bz2.open(ROOT / "examples" / "data" / "enwiki-pages-articles1-shortened.xml.bz2", "rt", encoding="utf-8") as stream:
        text = stream.read(200_000)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(text.splitlines(), vocab_size=1000))


def run_part(who: str, run: str, out: str, *, shard_bytes: int) -> None:
    """Convert in this process and print seconds and peak memory."""
    begin = time.perf_counter()
    if who == "ours":
        from rwtrain.export.export import export_run

        export_run(run, out, max_shard_bytes=shard_bytes, parity=False)
    else:
        from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict

        checkpoint = Path(run) / "checkpoints" / "step-00000001"
        convert_zero_checkpoint_to_fp32_state_dict(str(checkpoint), out, max_shard_size=f"{shard_bytes // 10**6}MB", safe_serialization=True, tag="state")
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Largest resident memory of this process; unlike `getrusage`, without that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def equal_weights(ours: Path, theirs: Path) -> bool:
    """Whether two folders of sharded weights hold the same tensors."""
    from safetensors import safe_open

    maps = [json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"] for folder in (ours, theirs)]
    if maps[0].keys() != maps[1].keys():
        return False
    for name in maps[0]:
        tensors = []
        for folder, files in zip((ours, theirs), maps, strict=True):
            with safe_open(folder / files[name], framework="pt") as shard:
                tensors.append(shard.get_tensor(name))
        if not torch.equal(*tensors):
            return False
    return True


if __name__ == "__main__":
    main()
