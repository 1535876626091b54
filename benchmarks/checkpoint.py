"""How long training stands still for a checkpoint: DeepSpeed's plain `save_checkpoint` against rwtrain's asynchronous save of the same state.

    python -m benchmarks.checkpoint [--quick] [--folder FOLDER]

Two ranks, ZeRO-3, bf16 with float32 master weights and AdamW states. Both ways save the same engine alternately. The stall is what
training waits for: collecting the states, and before the next update whatever is not copied by then. rwtrain's checkpoint is whole (flushed, hashed,
renamed) after `seconds` more in the background. On two cores with two ranks the background has no core of its own: `step_while_saving_s` shows that.
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
from benchmarks.soak import write_settings

RANKS = 2
LAYERS, SAVES = {"quick": 4, "full": 8}, {"quick": 4, "full": 9}  # a layer has 13 million parameters
WIDTH, FEED_FORWARD_WIDTH = 1024, 2816


def measure(arguments: list[str]) -> int:
    """One rank: alternate plain and asynchronous saves; rank 0 writes the figures."""
    from rwtrain.config.schema import TrainConfig
    from rwtrain.train import distributed
    from rwtrain.train.checkpoint import checkpoint_name
    from rwtrain.train.loop import Trainer
    from rwtrain.train.signals import StopRequest
    from rwtrain.train.work import pretraining

    folder, size = Path(arguments[0]), arguments[1]
    settings = json.loads((folder / "settings.json").read_text())
    settings["model"] |= {"hidden_size": WIDTH, "intermediate_size": FEED_FORWARD_WIDTH, "num_hidden_layers": LAYERS[size], "num_attention_heads": 8}
    config = TrainConfig.model_validate({**settings, "run": str(folder / "run"), "checkpoint": {"keep": 1}})
    ranks = distributed.start(600)
    trainer = Trainer(config, ranks, pretraining(config, ranks))
    engine, saver, release, stop = trainer.engine, trainer.saver, trainer.saver.release, StopRequest()
    waits: list[float] = []
    saver.release = lambda: waits.append(release()) or waits[-1]  # type: ignore[method-assign,func-returns-value]

    def step() -> tuple[float, float]:
        """(seconds of a training step, of which it waits for the copy of the states)."""
        batches, began = trainer.loader.step_batches(trainer.step), time.perf_counter()
        trainer._train_step(batches, trainer._agree(batches, stop), 0.0, began)
        return time.perf_counter() - began, waits.pop()

    step()  # so that AdamW has states
    rows: list[dict[str, float]] = []
    for number in range(SAVES[size]):
        if ranks.is_main:
            shutil.rmtree(folder / "plain", ignore_errors=True)
        ranks.barrier()
        began, began_cpu = time.perf_counter(), time.thread_time()
        engine.save_checkpoint(str(folder / "plain"), tag=str(number))
        plain_s, plain_cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu
        step_s, _ = step()
        ranks.barrier()
        began, began_cpu = time.perf_counter(), time.thread_time()
        saver.begin(number + 1)
        begin_s, begin_cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu
        saving_step_s, waited_s = step()
        saver.finish()
        row = {"plain_s": plain_s, "plain_cpu_s": plain_cpu_s, "stall_s": begin_s + waited_s, "stall_cpu_s": begin_cpu_s}
        row |= {"step_s": step_s, "step_while_saving_s": saving_step_s - waited_s}
        rows.append(row | {"seconds": time.perf_counter() - began - begin_s})
        assert saver.saved_step == number + 1

    if ranks.is_main:
        manifest = json.loads((folder / "run/checkpoints" / checkpoint_name(SAVES[size]) / "manifest.json").read_text())
        parameters = sum(parameter.ds_numel for parameter in engine.module.parameters())
        figures = {"parameters": parameters, "bytes": sum(entry["bytes"] for entry in manifest["files"].values()), "rows": rows}
        (folder / "figures.json").write_text(json.dumps(figures))
    distributed.stop()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 50 million parameters and 4 saves instead of 100 million and 9")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to save (default: the system's temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        (folder / "settings.json").write_text(json.dumps(write_settings(folder, steps=10)))
        job = Job([str(folder), "quick" if arguments.quick else "full"], processes=RANKS, output=folder / "output", main=measure)
        if job.wait(3600) != [0] * RANKS:
            raise SystemExit((folder / "output").read_text())
        figures = json.loads((folder / "figures.json").read_text())
    rows = figures.pop("rows")
    print(f"{figures['parameters'] / 1e6:.1f} million parameters, {RANKS} ranks, ZeRO-3, {figures['bytes'] / 1e9:.2f} GB per checkpoint")
    print(f"{'save':>4} {'DeepSpeed, s':>14} {'CPU-s':>7} {'stall, s':>10} {'CPU-s':>7} {'in the background, s':>22}")
    for number, row in enumerate(rows, start=1):
        times = f"{row['plain_s']:>14.2f} {row['plain_cpu_s']:>7.2f} {row['stall_s']:>10.3f} {row['stall_cpu_s']:>7.3f}"
        print(f"{number:>4} {times} {row['seconds']:>22.2f}")
    later = rows[1:]  # the first one also allocates the host memory that the others use again
    median = {key: statistics.median(row[key] for row in later) for key in rows[0]}
    result = {
        "name": "checkpoint",
        "stall_ratio": median["plain_s"] / median["stall_s"],
        "first_stall_ratio": rows[0]["plain_s"] / rows[0]["stall_s"],
        "stall_cpu_ratio": median["plain_cpu_s"] / median["stall_cpu_s"],  # what counts where other programs load the machine
        **median,
        **figures,
        "quick": arguments.quick,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
