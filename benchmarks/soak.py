"""Kill a training run again and again: `kill -9` of a random rank at a random instant, also in the middle of saving, then start it again.

    python -m benchmarks.soak [--quick] [--kills N] [--seed N]

A tiny model, two ranks, ZeRO-3, bf16, a checkpoint every 3 steps, written asynchronously. After every kill all checkpoints are compared
with their manifests. In the end every loss of every start, repeated steps included, is compared bit for bit with an undisturbed run.
"""

from __future__ import annotations

import argparse
import bz2
import json
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.forked_ranks import Job
from rwtrain.errors import DataError
from rwtrain.train.checkpoint import entries, read_latest, resolve, verify
from rwtrain.train.metrics import read_metrics

RANKS, EVERY = 2, 3
TEXT = Path(__file__).parents[1] / "examples/data/enwiki-pages-articles1-shortened.xml.bz2"


def write_settings(folder: Path, steps: int) -> dict[str, Any]:
    """Tokenizer, shards and settings of a tiny run."""
    import sentencepiece

    from rwtrain.data.shards import Document, ShardWriter
    from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer

    with bz2.open(TEXT, "rt", encoding="utf-8") as stream:
        texts = [line for line in re.sub(r"<[^>]+>", "", stream.read(1_000_000)).splitlines() if len(line) > 200][:300]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        byte_fallback=True,
        pad_id=3,
        model_type="bpe",
        control_symbols=["<mask>", "<image>"],
        minloglevel=2,
    )
    tokenizer = Tokenizer(folder / "tokenizer.model")
    with ShardWriter(folder / "text", vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as writer:
        for number, text in enumerate(texts):
            writer.add(Document(doc_id=str(number), tokens=np.concatenate(([BOS_ID], tokenizer.encode(text), [EOS_ID])), content_id=number))
    return {
        "steps": steps,
        "data": {"text": str(folder / "text"), "tokenizer": str(tokenizer.path)},
        "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "embedding_dim": 16},
        "batch": {"seq_len": 64, "text_rows": 2, "masked_rows": 2},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoint": {"every_steps": EVERY},
        "guard": {"hang_timeout_s": 0},  # the machine itself may be suspended for minutes
        "logging": {"every_steps": 1, "tensorboard": False},
    }


def start(run: Path, settings: dict[str, Any]) -> Job:
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, "run": str(run)}))
    return Job(["train", str(path)], processes=RANKS, output=run.with_suffix(".output"))


def reached(run: Path) -> int:
    """The step of the newest line."""
    return max((line["step"] for line in read_metrics(run)[-1:]), default=0)


def disturb(run: Path, job: Job, draw: random.Random) -> dict[str, Any] | None:
    """Kill one rank at a random instant and look at what is left; None if the run ended before."""
    began, target = len(read_metrics(run)), draw.randint(0, 9)  # 0: while it starts
    deadline = time.monotonic() + (draw.uniform(0, 3) if target == 0 else 300)
    while time.monotonic() < deadline and job.ended() is None and (target == 0 or len(read_metrics(run)) < began + target):
        time.sleep(0.002)
    while draw.random() < 0.5 and target and job.ended() is None and not list((run / "checkpoints").glob(".step-*.tmp")):
        time.sleep(0.001)  # half of the kills come near a save
    time.sleep(draw.uniform(0, 0.02))
    if job.ended() is not None:
        return None
    saving = bool(list((run / "checkpoints").glob(".step-*.tmp")))
    job.ranks[draw.randrange(RANKS)].kill()
    job.wait(3600)
    unreadable = 0
    for entry in entries(run):
        try:
            verify(entry.path)
        except DataError:
            unreadable += 1
    kept = int(resolve(run).name.removeprefix("step-")) if read_latest(run / "checkpoints") else 0
    step = reached(run) if len(read_metrics(run)) > began else kept
    return {"saving": saving, "reached": step, "kept": kept, "unreadable": unreadable, "intervals": step // EVERY - kept // EVERY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 kills instead of 50")
    parser.add_argument("--kills", type=int, help="another number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the instants and victims")
    arguments = parser.parse_args()
    kills = arguments.kills or (8 if arguments.quick else 50)
    draw, rows, began = random.Random(arguments.seed), [], time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = write_settings(folder, steps=6 * kills + 20)
        job = start(folder / "undisturbed", settings)
        if job.wait(3600) != [0] * RANKS:
            raise SystemExit(job.output.read_text()[-3000:])
        expected = {line["step"]: losses(line) for line in read_metrics(folder / "undisturbed")}
        run, codes = folder / "disturbed", None
        print(f"{'kill':>5} {'while saving':>13} {'reached':>8} {'kept':>6} {'steps lost':>11} {'unreadable':>11}")
        while codes is None:
            job = start(run, settings)
            row = disturb(run, job, draw) if len(rows) < kills else None
            if row is None:
                codes = job.wait(3600)
                break
            rows.append(row)
            lost = row["reached"] - row["kept"]
            print(f"{len(rows):>5} {'yes' if row['saving'] else '':>13} {row['reached']:>8} {row['kept']:>6} {lost:>11} {row['unreadable']:>11}", flush=True)
        if codes != [0] * RANKS:
            raise SystemExit(job.output.read_text()[-3000:])
        found = read_metrics(run)
    resumes = len({line["process"] for line in found}) - 1
    result = {
        "name": "soak",
        "kills": len(rows),
        "kills_while_saving": sum(row["saving"] for row in rows),
        "resumes": resumes,
        "steps": settings["steps"],
        "steps_run": len(found),
        "steps_lost": sum(row["reached"] - row["kept"] for row in rows),
        "unreadable_checkpoints": sum(row["unreadable"] for row in rows),
        "max_intervals_lost": max((row["intervals"] for row in rows), default=0),
        "losses_equal": {line["step"] for line in found} == expected.keys() and all(losses(line) == expected[line["step"]] for line in found),
        "seconds": time.monotonic() - began,
        "quick": arguments.quick,
    }
    print(json.dumps(result))


def losses(line: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key.startswith("loss/")}


if __name__ == "__main__":
    main()
