"""How long training stands still for a checkpoint: DeepSpeed's plain `save_checkpoint` against rwtrain's asynchronous save of the same state.

    python -m benchmarks.checkpoint [--quick] [--folder FOLDER]

Two ranks, ZeRO-3, bf16 with float32 master weights and AdamW states. Both ways save the same engine alternately. The stall is what a
training step waits for; rwtrain's checkpoint is whole (flushed, hashed, renamed) after `seconds` more in the background.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.forked_ranks import Job

RANKS = 2
SHAPES = {True: (50, 512, 1408, 8, 16_000, 3), False: (100, 640, 1760, 14, 32_000, 7)}  # millions, width, feed-forward width, layers, vocabulary, saves


def measure(arguments: list[str]) -> int:
    """One rank: alternate plain and asynchronous saves; rank 0 writes the figures."""
    from rwtrain.config.deepspeed import resolve
    from rwtrain.config.schema import CheckpointConfig, TrainConfig
    from rwtrain.model.configuration_refinedweb import RefinedWebConfig
    from rwtrain.train import distributed
    from rwtrain.train.checkpoint import checkpoint_name
    from rwtrain.train.engine import build_engine
    from rwtrain.train.saving import Saver

    folder, (_, width, feed_forward, layers, vocabulary, saves) = Path(arguments[0]), SHAPES[arguments[1] == "quick"]
    ranks = distributed.start(600)
    config = TrainConfig.model_validate({"run": str(folder / "run"), "steps": 1, "data": {"text": "", "tokenizer": ""}, "batch": {"text_rows": RANKS}})
    shape = RefinedWebConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers, num_attention_heads=8)
    engine = build_engine(shape, config.optimizer, resolve(config, world_size=RANKS), steps=1, seed=0, activation_checkpointing=False)
    saver = Saver(engine, ranks, Path(config.run), CheckpointConfig(keep=1), lambda *event: print(event, flush=True), loaded_step=0)
    rows: list[dict[str, float]] = []
    for number in range(saves):
        if ranks.is_main:
            shutil.rmtree(folder / "plain", ignore_errors=True)
        ranks.barrier()
        began = time.perf_counter()
        engine.save_checkpoint(str(folder / "plain"), tag=str(number))
        plain_s = time.perf_counter() - began
        ranks.barrier()
        began = time.perf_counter()
        saver.begin(number + 1)
        stall_s = time.perf_counter() - began
        saver.finish()
        rows.append({"plain_s": plain_s, "stall_s": stall_s, "seconds": time.perf_counter() - began - stall_s})
        assert saver.saved_step == number + 1
    if ranks.is_main:
        manifest = json.loads((folder / "run/checkpoints" / checkpoint_name(saves) / "manifest.json").read_text())
        parameters = sum(parameter.ds_numel for parameter in engine.module.parameters())
        figures = {"parameters": parameters, "bytes": sum(entry["bytes"] for entry in manifest["files"].values()), "rows": rows}
        (folder / "figures.json").write_text(json.dumps(figures))
    distributed.stop()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 50 million parameters and 3 saves instead of 100 million and 7")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to save (default: the system's temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        job = Job([str(folder), "quick" if arguments.quick else "full"], processes=RANKS, output=folder / "output", main=measure)
        if job.wait(3600) != [0] * RANKS:
            raise SystemExit((folder / "output").read_text())
        figures = json.loads((folder / "figures.json").read_text())
    rows = figures.pop("rows")
    print(f"{figures['parameters'] / 1e6:.1f} million parameters, {RANKS} ranks, ZeRO-3, {figures['bytes'] / 1e9:.2f} GB per checkpoint")
    print(f"{'save':>4} {'DeepSpeed, s':>14} {'stall, s':>10} {'in the background, s':>22}")
    for number, row in enumerate(rows, start=1):
        print(f"{number:>4} {row['plain_s']:>14.2f} {row['stall_s']:>10.3f} {row['seconds']:>22.2f}")
    later = rows[1:]  # the first one also allocates the host memory that the others use again
    median = {key: statistics.median(row[key] for row in later) for key in rows[0]}
    result = {
        "name": "checkpoint",
        "stall_ratio": median["plain_s"] / median["stall_s"],
        "first_stall_ratio": rows[0]["plain_s"] / rows[0]["stall_s"],
        "plain_s": median["plain_s"],
        "stall_s": median["stall_s"],
        "seconds": median["seconds"],
        **figures,
        "quick": arguments.quick,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
