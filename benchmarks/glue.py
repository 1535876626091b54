"""SST-2 and STS-B after pretraining on the given corpora, beside a majority, bags of words and a BERT of equal size trained from scratch on the task.

Parts: corpus and tokenizer (benchmarks/glue_corpus.py) → masked prediction and text contrast with `rwtrain train` → `rwtrain finetune` on each task →
the peer. STS-B begins with a wide model as drawn, for masked prediction made its embeddings worse. Finished parts below --runs are not done again.
Settings were chosen on 1,000 whole sentences of SST-2's training file, with every phrase in them left out of training, and on a tenth of STS-B's
training pairs. The development files were looked at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.glue_corpus import plain, read_lines, read_table, write_corpus
from benchmarks.peer_env import PEERS, ROOT
from rwtrain.errors import RWTrainError
from rwtrain.files import write_json
from rwtrain.finetune.files import read_examples
from rwtrain.finetune.tasks import TASKS as GLUE_TASKS

COMMON = {"engine": {"overlays": ["zero0", "fp32"]}, "guard": {"hang_timeout_s": 0}, "logging": {"every_steps": 50, "tensorboard": False}}
PRETRAINING: dict[str, Any] = {
    "steps": 900,
    "model": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "embedding_dim": 128,
    },
    "batch": {"seq_len": 192, "text_rows": 0, "masked_rows": 20, "mask_rate": 0.25},
    "objectives": {"text_contrast": 0.0},
    "optimizer": {"learning_rate": 3e-3, "warmup_steps": 50, "weight_decay": 0.05, "min_learning_rate_ratio": 0.03},
    "checkpoint": {"every_steps": 100, "keep": 2},
    **COMMON,
}
DRAWN_WIDTH = 384  # of the model that STS-B begins with
TUNED = {"weight_decay": 0.05, "schedule": "linear", "min_learning_rate_ratio": 0.0, "beta2": 0.98, "learning_rate": 1e-3}
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {"epochs": 2, "dropout": 0.3, "hide_rate": 0.2, "batch": {"seq_len": 128, "rows": 16}, "optimizer": TUNED | {"warmup_steps": 50}, **COMMON},
    "stsb": {"epochs": 4, "hide_rate": 0.2, "batch": {"seq_len": 128, "rows": 24}, "optimizer": TUNED | {"warmup_steps": 10}, **COMMON},
}
PEER_SHAPES = {"sst2": ("--width=256", "--layers=1"), "stsb": (f"--width={DRAWN_WIDTH}", "--layers=1")}
MORE = ("cola", "mrpc", "rte", "wnli")
QUICK_STEPS, QUICK_EXAMPLES = 20, 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with wikitext2, wikipedia-dump, glue, flickr8k, multi30k, qa")
    parser.add_argument("--runs", type=Path, help="folder of the parts (default: runs/glue, with --quick runs/glue-quick)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps, {QUICK_EXAMPLES} examples: shows that it runs")
    parser.add_argument("--more", action="store_true", help="also CoLA, MRPC, RTE and WNLI, with the settings of SST-2 and without the peer")
    options = parser.parse_args()
    runs = options.runs or ROOT / "runs" / ("glue-quick" if options.quick else "glue")
    starts = {"sst2": pretrain(options.data, runs, quick=options.quick), "stsb": draw(runs)}
    write_tasks(options.data / "glue", runs / "tasks", limit=QUICK_EXAMPLES if options.quick else None)
    figures: dict[str, Any] = {"name": "glue", "quick": options.quick}
    for task in TASKS:
        results = finetune(task, starts[task], runs, settings=TASKS[task])
        figures[task] = {"ours": results["figures"], **results["baselines"], "bert from scratch": peer(task, runs)}
    for task in MORE if options.more else ():
        results = finetune_more(task, starts["sst2"], runs, options.data / "glue")
        figures[task] = {"ours": results["figures"], **results["baselines"]}
    show(figures)
    print(json.dumps(figures))


def call(*command: str | Path) -> str:
    """Run a command of this repository; return its standard output."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RWTrainError(f"{' '.join(map(str, command))} failed: see above.")
    return done.stdout


def pretrain(data: Path, runs: Path, *, quick: bool) -> Path:
    """The run folder of the pretrained model."""
    corpus, run = runs / "corpus", runs / "pretrain"
    if not (corpus / "text" / "manifest.json").is_file():
        write_json(runs / "tokens.json", write_corpus(data, corpus))
    settings = {**PRETRAINING, "run": str(run), "data": {"text": str(corpus / "text"), "tokenizer": str(corpus / "tokenizer.model")}}
    settings |= {"steps": QUICK_STEPS} if quick else {}
    if not (run / "checkpoints" / f"step-{settings['steps']:08d}").is_dir():
        (runs / "pretrain.yaml").write_text(yaml.safe_dump(settings))
        call("-m", "rwtrain.cli", "train", runs / "pretrain.yaml")
    return run


def draw(runs: Path) -> Path:
    """The run folder of a model whose weights are as drawn: one step at a rate of next to nothing."""
    model = {**PRETRAINING["model"], "hidden_size": DRAWN_WIDTH, "embedding_dim": DRAWN_WIDTH}
    optimizer = {"learning_rate": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
    settings = {**PRETRAINING, "run": str(runs / "drawn"), "steps": 1, "model": model, "optimizer": optimizer}
    settings |= {"data": {"text": str(runs / "corpus" / "text"), "tokenizer": str(runs / "corpus" / "tokenizer.model")}}
    if not (runs / "drawn" / "checkpoints" / "step-00000001").is_dir():
        (runs / "drawn.yaml").write_text(yaml.safe_dump(settings))
        call("-m", "rwtrain.cli", "train", runs / "drawn.yaml")
    return runs / "drawn"


def write_tasks(glue: Path, out: Path, *, limit: int | None) -> None:
    """The tasks' files, written as the corpus is."""
    out.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        rows = [(plain(row["sentence"]), row["label"]) for row in read_table(glue / f"SST-2_{split}.tsv.gz")]
        _write(out / f"SST-2_{split}.tsv", [("sentence", "label"), *rows[:limit]])
        cells = (line.split("\t") for line in read_lines(glue / f"STS-B_sts-{split}.tsv.gz"))
        pairs = [(plain(row[5]), plain(row[6]), row[4]) for row in cells if len(row) > 6]
        _write(out / f"STS-B_sts-{split}.tsv", [("sentence1", "sentence2", "score"), *pairs[:limit]])


def _write(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")


def finetune(task: str, pretrained: Path, runs: Path, *, settings: dict[str, Any]) -> dict[str, Any]:
    """results.json of a task's run."""
    run = runs / task
    if not (run / "results.json").is_file():
        (runs / f"{task}.yaml").write_text(yaml.safe_dump(settings))
        call("-m", "rwtrain.cli", "finetune", pretrained, "--task", task, "--data", runs / "tasks", "--out", run, "--config", runs / f"{task}.yaml")
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def finetune_more(task: str, pretrained: Path, runs: Path, glue: Path) -> dict[str, Any]:
    """results.json of another task's run, from files written as the corpus is; nothing was chosen for it."""
    spec = GLUE_TASKS[task]
    for split in ("train", "dev"):
        examples = read_examples(glue / f"{spec.stem}_{split}.tsv.gz", spec, labels=spec.labels)
        rows = [(*map(plain, filter(None, (example.first, example.second))), spec.labels[int(example.label or 0)]) for example in examples]
        _write(runs / "tasks" / f"{spec.stem}_{split}.tsv", [tuple(name for name in spec.columns if name), *rows])
    return finetune(task, pretrained, runs, settings=TASKS["sst2"])


def peer(task: str, runs: Path) -> dict[str, Any]:
    """Figures of the BERT of equal size."""
    kept = runs / f"bert-{task}.json"
    if not kept.is_file():
        stem = {"sst2": "SST-2_", "stsb": "STS-B_sts-"}[task]
        files = [runs / "tasks" / f"{stem}{split}.tsv" for split in ("train", "dev")]
        printed = call(PEERS / "bert_glue.py", task, *files, runs / "corpus" / "tokenizer.model", f"--epochs={TASKS[task]['epochs']}", *PEER_SHAPES[task])
        write_json(kept, json.loads(printed.splitlines()[-1]))
    return json.loads(kept.read_text(encoding="utf-8"))


def show(figures: dict[str, Any]) -> None:
    """A table: a line for each model, the task's leading figure."""
    for task in (name for name in GLUE_TASKS if name in figures):
        lead = GLUE_TASKS[task].metrics[0]
        print(f"{task} {lead}")
        for title, values in figures[task].items():
            print(f"  {title:20} {values[lead]:.4f}")


if __name__ == "__main__":
    main()
