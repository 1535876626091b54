"""`rwtrain finetune`: a task's head on a trained model, with the engine, its checkpoints and its agreed stop."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rwtrain.config.finetune import FinetuneConfig
from rwtrain.config.load import dump_yaml, load_config

EPILOG = """examples:
  rwtrain finetune runs/demo/export --task sst2 --data data/glue --out runs/sst2
  rwtrain finetune runs/demo/export --task stsb --data data/glue --out runs/stsb --set epochs=5 --processes 2
  rwtrain finetune runs/demo --task reviews.tsv --valid reviews-held-out.tsv --out runs/reviews
  rwtrain finetune runs/demo/export --task squad --train train-v2.0.json --valid dev-v2.0.json --out runs/squad --set batch.seq_len=384
  rwtrain finetune --config finetune.yaml --dry-run

TASK is one of sst2, cola, mrpc, rte, qnli, wnli, stsb, squad, or a .tsv, .csv or .jsonl file with the columns text (or sentence1 and
sentence2) and label (classes) or score (numbers). Run it again to continue from the latest checkpoint. OUT then holds results.json,
predictions, and export/, a Hugging Face folder. Exit status as of `rwtrain train`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain finetune`."""
    parser.epilog = EPILOG
    parser.add_argument("model", nargs="?", metavar="MODEL", help="exported folder, run folder or checkpoint to begin with")
    parser.add_argument("--task", metavar="TASK", help="task by name, or a training file")
    parser.add_argument("--out", metavar="DIR", help="run folder to write")
    parser.add_argument("--data", metavar="DIR", help="folder with GLUE's files")
    parser.add_argument("--train", metavar="FILE", help="training file")
    parser.add_argument("--valid", metavar="FILE", help="file to judge by")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, which the options above replace")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="replace one setting, for example --set epochs=5")
    parser.add_argument("--processes", type=int, default=1, help="processes to start on this machine (default: 1)")
    parser.add_argument("--fallback", action="store_true", help="if the latest checkpoint is damaged, continue from the newest one before it that is whole")
    parser.add_argument("--no-baselines", action="store_true", help="leave out the comparison with a majority and a bag of words")
    parser.add_argument("--dry-run", action="store_true", help="check settings and data, print the configuration and stop")
    parser.set_defaults(run=run)


def overrides_of(options: argparse.Namespace) -> list[str]:
    """The options as settings; those given with --set win."""
    named = {"model": options.model, "run": options.out} | {f"task.{key}": getattr(options, key) for key in ("data", "train", "valid")}
    return [f"{key}={json.dumps(value)}" for key, value in (named | {"task.name": options.task}).items() if value] + options.overrides


def run(options: argparse.Namespace) -> int:
    """Check everything once, train here or in child processes, then export, predict and judge."""
    from rwtrain.finetune.work import Prepared

    config = load_config(FinetuneConfig, options.config, overrides_of(options))
    prepared = Prepared.read(config)
    if "RANK" in os.environ:
        from rwtrain.train.loop import run_work

        return run_work(prepared.config, prepared.work, fallback=options.fallback)
    prepared.check_unchanged()
    if options.dry_run:
        print(dump_yaml(prepared.config), end="")
        print(f"# {prepared.loader(rank=0, world_size=options.processes).summary()}\n# {prepared.describe()}")
        return 0
    from launch.local import run_ranks

    command = [sys.executable, "-m", "rwtrain.cli", "finetune", *(["--config", options.config] if options.config else [])]
    command += [f"--set={item}" for item in overrides_of(options)] + [f"--{flag}" for flag in ("fallback", "debug") if getattr(options, flag)]
    code = run_ranks(command, processes=options.processes)
    if code:
        return code
    results = finish(prepared, with_baselines=not options.no_baselines)
    print_results(results)
    return 0


def finish(prepared: Any, *, with_baselines: bool) -> dict[str, Any]:
    """Export the fine-tuned model into RUN/export, predict the file to judge by, and write results.json."""
    from rwtrain.export.export import export_run
    from rwtrain.files import write_json
    from rwtrain.finetune.files import read_examples
    from rwtrain.finetune.predicting import Predictor, baselines, judge, write_predictions

    run, files = Path(prepared.config.run), prepared.files
    export_run(run, run / "export", name=f"{files.task.name}", parity=False)
    results: dict[str, Any] = {**prepared.describe(), "model": str(prepared.start.path), "train": str(files.train), "examples": len(prepared.examples)}
    if files.valid is not None:
        valid = read_examples(files.valid, files.task, labels=prepared.labels)
        predictor = Predictor.open(run / "export")
        predictions = predictor.predict(valid, progress=True)
        write_predictions(run / "predictions.tsv", predictor.task, valid, predictions)
        results |= {"valid": str(files.valid), "valid_examples": len(valid), "figures": judge(predictor.task, valid, predictions)}
        if with_baselines:
            results["baselines"] = baselines(predictor.task, prepared.examples, valid)
    write_json(run / "results.json", results)
    return results


def print_results(results: dict[str, Any]) -> None:
    """The model's figures and the baselines', a line each."""
    rows = {"this model": results.get("figures", {}), **results.get("baselines", {})}
    names = results["metrics"]
    print(f"{results['task']}: {results['examples']:,} examples learnt, {results.get('valid_examples', 0):,} judged")
    if results.get("figures"):
        print(f"  {'':14}" + "".join(f"{name:>22}" for name in names))
        for title, figures in rows.items():
            print(f"  {title:14}" + "".join(f"{figures[name]:22.4f}" for name in names))
