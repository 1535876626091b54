"""`rwtrain prep`: run a plan, say what it would do, or look into a dataset."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from data_prep.engines import Engine
from data_prep.engines.processes import Processes
from data_prep.engines.ray_cluster import RayCluster
from data_prep.engines.slurm_array import SlurmArray
from data_prep.inspection import Options, inspect
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.summary import Summary
from rwtrain.config.load import load_config
from rwtrain.errors import ConfigError

ENGINES = ("pool", "ray", "slurm")

EPILOG = """examples:
  rwtrain prep examples/demo/prep.yaml --out runs/demo/corpus --workers 2
  rwtrain prep examples/demo/prep.yaml --out runs/demo/corpus --set link.store=runs/demo/entities --set language.keep=[en,de]
  rwtrain prep examples/demo/prep.yaml --out runs/demo/corpus --dry-run
  rwtrain prep examples/demo/prep.yaml --out runs/demo/corpus --engine ray --address head.example.org:6379
  rwtrain prep examples/demo/prep.yaml --out runs/demo/corpus --engine slurm --workers 64 --slurm=--partition=cpu --slurm=--mem-per-cpu=4G
  rwtrain prep inspect runs/demo/corpus
  rwtrain prep inspect runs/demo/corpus --doc wikipedia:12 --store runs/demo/entities
  rwtrain prep inspect runs/demo/corpus/shards/text/train --seq-len 1024 --seq-len 4096
  rwtrain prep inspect runs/demo/corpus/shards/images/valid --save-images /tmp/images

Paths in a plan are relative to the current folder. An interrupted run goes on where it was when the command is given again."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain prep`."""
    parser.epilog = EPILOG
    parser.add_argument("plan", metavar="PLAN.yaml|inspect", help="the plan to run, or the word `inspect` to look into a dataset")
    parser.add_argument("dataset", nargs="?", help="after `inspect`: a prepared folder or one of its datasets")
    parser.add_argument("--out", help="output folder")
    parser.add_argument("--workers", type=int, help="units done at the same time (default: one per core); the result is the same for any number")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="pool",
        help="what does the units of work: processes of this machine, a Ray cluster, or Slurm array jobs, one a stage",
    )
    parser.add_argument("--address", default="auto", help="of the Ray cluster: HOST:PORT of its head, auto for the one that runs here, local to start one")
    parser.add_argument(
        "--slurm", dest="slurm_options", action="append", default=[], metavar="OPTION", help="further option of sbatch, for example --slurm=--partition=cpu"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the inputs, the units of work with their sizes, and what is finished already, and stop")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the plan, for example dedup.bands=20"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")
    shown = parser.add_argument_group("after `inspect`")
    shown.add_argument("--doc", metavar="ID", help="show this document in full: text, entities, images")
    shown.add_argument("--store", metavar="DIR", help="entity store with the entities' names (default: the one that the plan named, if it is there)")
    shown.add_argument("--save-images", metavar="DIR", help="also write the images of the documents shown into this folder, named by their hashes")
    shown.add_argument("--seq-len", type=_row_length, action="append", default=[], metavar="N", help="row length to measure packing for; may be repeated")
    shown.add_argument("--tokenizer", metavar="DIR", help="the tokenizer, if it is not beside the dataset")
    parser.set_defaults(run=run)


def _row_length(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of tokens, at least 2")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.plan == "inspect":
        if arguments.dataset is None:
            raise ConfigError("Name the dataset: rwtrain prep inspect FOLDER.")
        options = Options(arguments.doc, arguments.tokenizer, arguments.store, arguments.save_images, arguments.seq_len)
        print(inspect(arguments.dataset, options))
        return 0
    if arguments.out is None:
        raise ConfigError("Name the output folder with --out.")
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: give at least 1.")
    plan = load_config(Plan, arguments.plan, arguments.overrides)
    preparation = Preparation(plan, arguments.out, engine=open_engine(arguments), quiet=arguments.quiet)
    if arguments.dry_run:
        print(preparation.dry_run())
        return 0
    begin = time.perf_counter()
    summary = preparation.run()
    print(describe(summary, Path(arguments.out), time.perf_counter() - begin))
    return 0


def open_engine(arguments: argparse.Namespace) -> Engine:
    """The engine that the arguments name."""
    if arguments.engine == "ray":
        return RayCluster(arguments.address, workers=arguments.workers)
    if arguments.engine == "slurm":
        if arguments.workers is None:
            raise ConfigError("Say with --workers how many tasks a Slurm job has.")
        return SlurmArray(arguments.workers, options=arguments.slurm_options)
    return Processes(arguments.workers or os.cpu_count() or 1)


def describe(summary: Summary, out: Path, seconds: float) -> str:
    """The closing lines of a run."""
    lines = []
    if summary.funnel:
        read, kept = summary.funnel[0].documents, summary.funnel[-1].documents
        lines.append(f"{read:,} documents read, {kept:,} kept; {summary.images:,} images; {summary.mentions:,} entity mentions; {seconds:.1f} s")
        lines += [f"  {stage.name:<11} {stage.documents:>10,}" for stage in summary.funnel]
    else:
        lines.append(f"{summary.images:,} images; {seconds:.1f} s")
    for dataset in summary.datasets:
        manifest = dataset.manifest
        lines.append(f"  {dataset.name:<14} {manifest['documents']:>9,} documents {manifest['tokens']:>12,} tokens {manifest['bytes']:>13,} bytes")
    if summary.quarantine:
        lines.append(f"{sum(count for _, count in summary.quarantine):,} unusable records are named in {out / 'quarantine.jsonl'}")
    lines.append(f"Report: {out / 'report.html'}    Look inside: rwtrain prep inspect {out}")
    return "\n".join(lines)
