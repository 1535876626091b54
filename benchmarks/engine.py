"""What the training loop costs beside DeepSpeed itself, and its speed against transformers' Trainer with DeepSpeed.

    python -m benchmarks.engine [--quick]

Two ranks, ZeRO-3, bf16, one thread each. In one job, blocks of steps of a bare loop (forward, backward, step on batches that are in memory) and of
rwtrain's loop (loader, agreements, metrics, sentinel, everything) take turns on the same engine and the same batches. Then rwtrain's loop runs on
without the turns' barriers, and transformers' Trainer trains a Llama of the same shape on rows of the same size with the same DeepSpeed settings:
medians of their steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.forked_ranks import Job
from benchmarks.soak import write_settings
from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.shards import ShardDataset

RANKS, WARM_UP, BLOCK = 2, 3, 2
BLOCKS = {"quick": 16, "full": 60}  # of each loop
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
BATCH = {"seq_len": 256, "text_rows": 4, "masked_rows": 0}


def measure_loops(arguments: list[str]) -> int:
    """One rank: a bare loop and rwtrain's in turns; rank 0 writes seconds per step of each block."""
    from rwtrain.train import distributed
    from rwtrain.train.loop import Trainer
    from rwtrain.train.signals import StopRequest
    from rwtrain.train.work import pretraining

    folder, blocks = Path(arguments[0]), BLOCKS[arguments[1]]
    config = configuration(folder, "loop")
    ranks = distributed.start(600)
    trainer, stop = Trainer(config, ranks, pretraining(config, ranks)), StopRequest()
    engine, task = trainer.engine, trainer.task
    batches = trainer.loader.iterate(0, config.steps)
    seconds: dict[str, list[float]] = {"bare": [], "rwtrain": []}
    processor_seconds: dict[str, list[float]] = {"bare": [], "rwtrain": []}  # of all threads of this rank, the loader's too
    with trainer.sentinel:
        for block in range(-1, blocks):
            steps = WARM_UP if block < 0 else BLOCK
            fixed = [trainer.loader.micro_batch(trainer.step + index, 0) for index in range(steps)]
            counts = [ranks.total(task.counts(batch)) for batch in fixed]

            def bare(fixed: list[Any] = fixed, counts: list[Any] = counts) -> None:
                for batch, count in zip(fixed, counts, strict=True):
                    engine.backward(task(engine, batch, count).total)
                    engine.step()

            def ours(steps: int = steps) -> None:
                for _ in range(steps):
                    trainer.advance(batches, stop)

            turns = [("bare", bare), ("rwtrain", ours)]
            for name, run in turns if block % 2 else turns[::-1]:
                ranks.barrier()
                began, began_cpu = time.perf_counter(), time.process_time()
                run()
                ranks.barrier()
                if block >= 0:
                    seconds[name].append((time.perf_counter() - began) / steps)
                    processor_seconds[name].append((time.process_time() - began_cpu) / steps)
        ended = [time.perf_counter()]
        for _ in range(BLOCK * blocks):  # without barriers, as the Trainer is timed
            trainer.advance(batches, stop)
            ended.append(time.perf_counter())
    batches.close()
    if ranks.is_main:
        waited = [line["data_stall"] for line in trainer.pending][WARM_UP:]
        parameters = sum(parameter.ds_numel for parameter in engine.module.parameters())
        found = {"seconds": seconds, "processor_seconds": processor_seconds, "data_stall": statistics.fmean(waited), "parameters": parameters}
        found["free"] = [after - before for before, after in itertools.pairwise(ended)]
        (folder / "loop.json").write_text(json.dumps(found))
    distributed.stop()
    return 0


def configuration(folder: Path, name: str) -> TrainConfig:
    settings = json.loads((folder / "settings.json").read_text())
    settings |= {"model": SHAPE, "batch": BATCH, "steps": 100_000, "run": str(folder / name)}
    return TrainConfig.model_validate({**settings, "checkpoint": {"every_steps": 100_000}, "logging": {"every_steps": 100_000, "tensorboard": False}})


def measure_trainer(arguments: list[str]) -> int:
    """One rank of transformers' Trainer; rank 0 writes the seconds of its steps."""
    import deepspeed
    import torch
    from accelerate import PartialState
    from deepspeed import ops
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    folder, steps = Path(arguments[0]), WARM_UP + BLOCK * BLOCKS[arguments[1]]
    PartialState(cpu=True, backend="gloo")
    deepspeed.init_distributed("gloo", verbose=False)
    config = configuration(folder, "trainer")
    rows, seq_len = config.batch.text_rows // RANKS, config.batch.seq_len
    deepspeed_config = {key: value for key, value in resolve(config, world_size=RANKS).items() if key != "train_batch_size"} | {"train_batch_size": "auto"}
    training = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=rows,
        max_steps=steps,
        learning_rate=config.optimizer.learning_rate,
        max_grad_norm=config.optimizer.gradient_clipping,
        use_cpu=True,
        bf16=True,
        deepspeed=deepspeed_config,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    vocabulary = ShardDataset(config.data.text[0].path).manifest["vocab_size"]
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE, vocab_size=vocabulary, tie_word_embeddings=True, max_position_embeddings=2048))
    ids = torch.randint(10, vocabulary, (steps * rows * RANKS, seq_len), generator=torch.Generator().manual_seed(0))
    dataset = [{"input_ids": row, "labels": row} for row in ids]
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    Trainer(model=model, args=training, train_dataset=dataset, callbacks=[Clock()]).train()
    if torch.distributed.get_rank() == 0:
        taken = [after - before for before, after in itertools.pairwise(ended[WARM_UP - 1 :])]
        (folder / "trainer.json").write_text(json.dumps({"seconds": taken}))
    torch.distributed.destroy_process_group()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 blocks of 2 steps of each loop instead of 60")
    options = parser.parse_args()
    size = "quick" if options.quick else "full"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = write_settings(folder, steps=1)
        (folder / "settings.json").write_text(json.dumps(settings))
        found = {}
        for name, main_of_rank in (("loop", measure_loops), ("trainer", measure_trainer)):
            job = Job([str(folder), size], processes=RANKS, output=folder / f"{name}.output", main=main_of_rank)
            if job.wait(3600) != [0] * RANKS:
                raise SystemExit(job.output.read_text()[-3000:])
            found[name] = json.loads((folder / f"{name}.json").read_text())
    tokens = BATCH["text_rows"] * BATCH["seq_len"]
    bare, ours = (statistics.median(found["loop"]["seconds"][name]) for name in ("bare", "rwtrain"))
    overheads, cpu_overheads = (
        sorted(after / before - 1 for before, after in zip(found["loop"][kind]["bare"], found["loop"][kind]["rwtrain"], strict=True))
        for kind in ("seconds", "processor_seconds")
    )
    trainer, free = statistics.median(found["trainer"]["seconds"]), statistics.median(found["loop"]["free"])
    print(f"{found['loop']['parameters'] / 1e6:.1f} million parameters, {RANKS} ranks, ZeRO-3, bf16, {tokens:,} tokens a step\n")
    print(f"{'loop':<36}{'s/step':>9}{'tokens/s':>11}")
    for name, seconds in (
        ("bare DeepSpeed, in turns", bare),
        ("rwtrain, in turns", ours),
        ("rwtrain", free),
        ("transformers.Trainer with DeepSpeed", trainer),
    ):
        print(f"{name:<36}{seconds:>9.3f}{tokens / seconds:>11,.0f}")
    result = {
        "name": "engine",
        "overhead_over_bare_deepspeed": statistics.median(overheads),  # of neighbouring blocks
        "overhead_quartiles": [overheads[len(overheads) // 4], overheads[-1 - len(overheads) // 4]],
        "overhead_in_processor_seconds": statistics.median(cpu_overheads),  # what counts where other programs load the machine
        "ratio_vs_hf_trainer": trainer / free,
        "data_stall": found["loop"]["data_stall"],
        "tokens_per_s": tokens / free,
        "bare_tokens_per_s": tokens / bare,
        "hf_trainer_tokens_per_s": tokens / trainer,
        "parameters": found["loop"]["parameters"],
        "quick": options.quick,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
