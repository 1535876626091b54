"""The planned memory of a rank against the measured memory of real training runs, each beside a run of the smallest model."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Recipe
from rwtrain.data.shards import Document, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID
from rwtrain.files import content_hash
from rwtrain.train.flops import expected_label_tokens
from rwtrain.train.memory import Precision, rank_memory
from rwtrain.train.setup import shape_model

VOCABULARY = 8000
STEPS = 2
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
WIDE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 4}
CASES: dict[str, dict[str, Any]] = {
    "ZeRO-3, bf16, 2 ranks": {"model": SMALL, "overlays": ["zero3", "bf16"], "processes": 2, "rows": 8, "checkpointing": 0},
    "ZeRO-3, bf16, 2 ranks, recomputing": {"model": WIDE, "overlays": ["zero3", "bf16"], "processes": 2, "rows": 16, "checkpointing": 1},
    "ZeRO-2, bf16, 2 ranks": {"model": SMALL, "overlays": ["zero2", "bf16"], "processes": 2, "rows": 8, "checkpointing": 0},
    "ZeRO-1, fp32, 1 rank": {"model": SMALL, "overlays": ["zero1", "fp32"], "processes": 1, "rows": 8, "checkpointing": 0},
}
QUICK = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the first two cases")
    options = parser.parse_args()
    cases = list(CASES.items())[: QUICK if options.quick else None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_data(folder)
        figures = {case: measure(folder, tokenizer, number, settings) for number, (case, settings) in enumerate(cases)}
    print(f"{'case':<40}{'planned MB':>12}{'measured MB':>13}{'planned / measured':>20}")
    for case, (planned, measured) in figures.items():
        print(f"{case:<40}{planned / 1e6:>12,.0f}{measured / 1e6:>13,.0f}{planned / measured:>20.3f}")
    worst = max(abs(planned / measured - 1) for planned, measured in figures.values())
    ratios = {case: planned / measured for case, (planned, measured) in figures.items()}
    print(json.dumps({"name": "plan_memory", "quick": options.quick, "planned_over_measured": ratios, "worst_error": worst}))


def make_data(folder: Path, *, vocabulary: int = VOCABULARY) -> Path:
    """A tokenizer of `vocabulary` pieces and shards of random ids; return the tokenizer's file."""
    import sentencepiece

    draw = np.random.default_rng(0)
    words = ["".join(letters) for letters in draw.choice(list("abcdefghijklmnopqrstuvwxyz"), (40_000, 7))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=3,
        control_symbols=["<mask>", "<image>"],
        minloglevel=2,
    )
    path = folder / "tokenizer.model"
    with ShardWriter(folder / "text", vocab_size=vocabulary, tokenizer_hash=content_hash(path)) as writer:
        for number in range(300):
            writer.add(Document(doc_id=str(number), tokens=np.concatenate(([BOS_ID], draw.integers(300, vocabulary, 1000), [EOS_ID])), content_id=number))
    return path


def measure(folder: Path, tokenizer: Path, number: int, case: dict[str, Any]) -> tuple[float, float]:
    """(planned, measured) bytes of rank 0 above those of a run with the smallest model."""
    peaks = [
        run(folder / f"run-{number}-{name}", settings(folder, tokenizer, case, model), case["processes"])
        for name, model in (("tiny", TINY), ("full", case["model"]))
    ]
    planned = [plan(settings(folder, tokenizer, case, model), case["processes"]) for model in (TINY, case["model"])]
    return planned[1] - planned[0], peaks[1] - peaks[0]


def settings(folder: Path, tokenizer: Path, case: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": "set by run()",
        "steps": STEPS,
        "data": {"text": str(folder / "text"), "tokenizer": str(tokenizer)},
        "model": model,
        "batch": {"seq_len": 512, "text_rows": case["rows"]},
        "engine": {"overlays": case["overlays"], "activation_checkpointing": case["checkpointing"]},
        "checkpoint": {"every_steps": 1000},
        "logging": {"tensorboard": False},
    }


def plan(values: dict[str, Any], processes: int) -> float:
    config = TrainConfig.model_validate(values)
    recipe = Recipe.derive(config.batch, world_size=processes, image_tokens=0, entity_dim=0)
    memory = rank_memory(
        shape_model(config, vocab_size=VOCABULARY, entity_dim=0, image_tokens=0),
        recipe,
        Precision.of(resolve(config, world_size=processes)),
        world_size=processes,
        checkpoint_every=config.engine.activation_checkpointing,
        label_tokens=expected_label_tokens(recipe),
        cpu=True,
    )
    return memory.total


RANK = """
import sys
from rwtrain.train.loop import Trainer
Trainer._save_last = lambda self: None  # only the steps are measured
from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.train.loop import train
train(load_config(TrainConfig, sys.argv[1]))
lines = open("/proc/self/status").read().splitlines()
peak = next(line for line in lines if line.startswith("VmHWM")).split()[1]
import os
if os.environ["RANK"] == "0":
    open(sys.argv[2], "w").write(peak)
"""


def run(folder: Path, values: dict[str, Any], processes: int) -> float:
    """Train and return the largest resident memory of rank 0 in bytes."""
    from launch.local import run_ranks

    path, peak = folder.with_suffix(".yaml"), folder.with_suffix(".peak")
    path.write_text(yaml.safe_dump(values | {"run": str(folder)}))
    # Freed memory goes back to the system at once, so that the peak is what was in use and not what the C library kept for later.
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
    status = run_ranks([sys.executable, "-c", RANK, str(path), str(peak)], processes=processes)
    if status:
        raise subprocess.CalledProcessError(status, "train")
    return float(peak.read_text()) * 1024


if __name__ == "__main__":
    main()
