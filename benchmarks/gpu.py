"""A bf16 training run of a 1B model on one GPU: tokens per second, MFU and peak memory, against transformers' Trainer on the same shape.

    python -m benchmarks.gpu [--quick] [--rows N] [--seq-len N]
    python -m benchmarks.gpu --smoke          # a tiny model on whatever is there, to see that the benchmark itself runs

Without a CUDA device it says so and ends. Needs torch 2.11, transformers 5.17 and deepspeed, whose wheel can be made anywhere with
`pip wheel --no-deps deepspeed` and carried to a machine without network. Both programs run one after the other in processes of their own: the
preset's trunk without images and knowledge, rows full of random tokens, AdamW, ZeRO-1, no recomputation, steps after the warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.plan_memory import make_data
from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Recipe
from rwtrain.data.shards import ShardDataset
from rwtrain.train.flops import expected_label_tokens, micro_batch_flops
from rwtrain.train.hardware import peak_tflops_of
from rwtrain.train.memory import Precision, rank_memory
from rwtrain.train.setup import shape_model

PRESET, VOCABULARY, SEQ_LEN, WARM_UP = "1b", 32_000, 2048, 5
STEPS = {"quick": 15, "full": 40, "smoke": 7}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TRUNK = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
    "max_position_embeddings",
)
USABLE = 0.85  # of the device's memory, by the planned figure


def configuration(folder: Path, options: argparse.Namespace, rows: int) -> TrainConfig:
    shape = SMALL if options.smoke else {"preset": PRESET, "vision": None, "gate_layers": None}
    return TrainConfig.model_validate(
        {
            "run": str(folder / "run"),
            "steps": STEPS["smoke" if options.smoke else "quick" if options.quick else "full"],
            "data": {"text": str(folder / "text"), "tokenizer": str(folder / "tokenizer.model"), "verify": False},
            "model": shape,
            "batch": {"seq_len": options.seq_len, "text_rows": rows},
            "optimizer": {"warmup_steps": 2},
            "engine": {"overlays": ["zero1", "bf16"]},
            "checkpoint": {"every_steps": 10**9},
            "guard": {"hang_timeout_s": 0},
            "logging": {"every_steps": 10**9, "tensorboard": False},
        }
    )


def train_ours(config: TrainConfig) -> dict[str, Any]:
    """Seconds of the steps after the warm-up, and the figures that follow from the model."""
    from rwtrain.train import distributed
    from rwtrain.train.loop import Trainer
    from rwtrain.train.signals import StopRequest
    from rwtrain.train.work import pretraining

    ranks = distributed.start(1800)
    trainer, stop = Trainer(config, ranks, pretraining(config, ranks)), StopRequest()
    batches = trainer.loader.iterate(0, config.steps)
    while trainer.advance(batches, stop):
        pass
    lines = trainer.pending[WARM_UP:]
    found = {
        "seconds": [line["step_s"] for line in lines],
        "data_stall": statistics.fmean(line["data_stall"] for line in lines),
        "tflops": statistics.median(line["tflops_per_device"] for line in lines),
        "parameters": sum(parameter.numel() for parameter in trainer.engine.module.parameters()),
        "peak_gb": lines[-1]["memory_gb"],
        "loss": lines[-1]["loss/total"],
    }
    distributed.stop()
    return found


def train_theirs(config: TrainConfig) -> dict[str, Any]:
    """The same of transformers' Trainer with DeepSpeed on a Llama of the trunk's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    cuda = torch.cuda.is_available()
    if not cuda:
        from accelerate import PartialState
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False
        PartialState(cpu=True, backend="gloo")
    training = TrainingArguments(
        output_dir=config.run + "-trainer",
        per_device_train_batch_size=config.batch.text_rows,
        max_steps=config.steps,
        learning_rate=config.optimizer.learning_rate,
        max_grad_norm=config.optimizer.gradient_clipping,
        bf16=True,
        use_cpu=not cuda,
        deepspeed=resolve(config, world_size=1),
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=2 if cuda else 0,
    )
    shape = {name: getattr(config.model, name) for name in TRUNK}
    model = LlamaForCausalLM._from_config(LlamaConfig(**shape, vocab_size=ShardDataset(config.data.text[0].path).manifest["vocab_size"]))
    size = (config.steps * config.batch.text_rows, config.batch.seq_len)
    ids = torch.randint(300, model.config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            ended.append(time.perf_counter())

    Trainer(model=model, args=training, train_dataset=[{"input_ids": row, "labels": row} for row in ids], callbacks=[Clock()]).train()
    taken = [after - before for before, after in zip(ended[WARM_UP - 1 :], ended[WARM_UP:], strict=False)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    torch.distributed.destroy_process_group()
    return {"seconds": taken, "parameters": parameters, "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0}


def largest_rows(folder: Path, options: argparse.Namespace) -> int:
    """The largest power of two of rows whose planned memory fits."""
    available = USABLE * torch.cuda.get_device_properties(0).total_memory
    for rows in (64, 32, 16, 8, 4, 2):
        config = configuration(folder, options, rows)
        recipe = Recipe.derive(config.batch, world_size=1, image_tokens=0, entity_dim=0)
        model, precision = shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=0), Precision.of(resolve(config, world_size=1))
        planned = rank_memory(model, recipe, precision, world_size=1, checkpoint_every=0, label_tokens=expected_label_tokens(recipe)).total
        if planned < available:
            print(f"{rows} rows of {options.seq_len}: {planned / 1e9:.1f} GB planned", flush=True)
            return rows
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="15 steps of each program instead of 40")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on any device")
    parser.add_argument("--rows", type=int, help="rows of the micro-batch (default: the largest power of two that fits by plan)")
    parser.add_argument("--seq-len", type=int, default=SEQ_LEN, help=f"tokens of a row (default: {SEQ_LEN})")
    parser.add_argument("--part", nargs=2, metavar=("PROGRAM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.smoke:
        print("There is no CUDA device here, so nothing was measured.")
        print(json.dumps({"name": "gpu", "skipped": True, "reason": "no CUDA device", "quick": options.quick}))
        return
    if options.smoke:
        options.seq_len, options.rows = 64, 2
    if options.part:
        program, folder = options.part[0], Path(options.part[1])
        found = {"ours": train_ours, "theirs": train_theirs}[program](configuration(folder, options, options.rows))
        (folder / f"{program}.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, vocabulary=8000 if options.smoke else VOCABULARY)
        rows = options.rows or largest_rows(folder, options)
        parts = {}
        flags = [flag for flag, given in (("--quick", options.quick), ("--smoke", options.smoke)) if given]
        for program in ("ours", "theirs"):
            command = [sys.executable, "-m", "benchmarks.gpu", *flags, "--rows", str(rows), "--seq-len", str(options.seq_len), "--part", program, name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{program}: {done.stderr[-3000:]}")
            parts[program] = json.loads((folder / f"{program}.json").read_text())
        config = configuration(folder, options, rows)
    report(config, parts, options)


def report(config: TrainConfig, parts: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and the JSON object."""
    tokens = config.batch.text_rows * config.batch.seq_len
    recipe = Recipe.derive(config.batch, world_size=1, image_tokens=0, entity_dim=0)
    model = shape_model(config, vocab_size=8000 if options.smoke else VOCABULARY, entity_dim=0, image_tokens=0)
    flops = sum(micro_batch_flops(model, recipe, label_tokens=expected_label_tokens(recipe), world_size=1).values())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = peak_tflops_of(device)
    seconds = {name: statistics.median(part["seconds"]) for name, part in parts.items()}
    mfu = {name: flops / value / peak / 1e12 if peak else None for name, value in seconds.items()}
    print(f"{device}: {parts['ours']['parameters'] / 1e6:,.0f} million parameters, bf16, {config.batch.text_rows} rows of {config.batch.seq_len}\n")
    print(f"{'program':<24}{'s/step':>9}{'tokens/s':>11}{'MFU':>8}{'peak GB':>9}")
    for name, title in (("ours", "rwtrain"), ("theirs", "transformers.Trainer")):
        share = f"{mfu[name]:.1%}" if mfu[name] is not None else "–"
        print(f"{title:<24}{seconds[name]:>9.3f}{tokens / seconds[name]:>11,.0f}{share:>8}{parts[name]['peak_gb']:>9.1f}")
    result = {
        "name": "gpu",
        "skipped": False,
        "device": device,
        "tokens_per_s": tokens / seconds["ours"],
        "mfu": mfu["ours"],
        "peak_gb": parts["ours"]["peak_gb"],
        "data_stall": parts["ours"]["data_stall"],
        "ratio_vs_hf_trainer": seconds["theirs"] / seconds["ours"],
        "hf_trainer_peak_gb": parts["theirs"]["peak_gb"],
        "parameters": parts["ours"]["parameters"],
        "rows": config.batch.text_rows,
        "seq_len": config.batch.seq_len,
        "smoke": options.smoke,
        "quick": options.quick,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
