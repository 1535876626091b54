"""`rwtrain import`: an exported folder as a training start."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  rwtrain import runs/demo/export --out runs/more --text runs/pubmed/shards/text/train
  rwtrain train runs/more/train.yaml --dry-run
  rwtrain train runs/more/train.yaml --processes 2

OUT then holds the model's tokenizer, with which new data is prepared (`rwtrain prep … --set tokenizer.path=OUT/tokenizer/tokenizer.model`),
and train.yaml, which begins with the model's weights. What a model learns anew it partly pays for with what it knew."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain import`."""
    parser.epilog = EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder written by `rwtrain export`")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder to write")
    parser.add_argument("--text", default="shards/text/train", metavar="SHARDS", help="text shards to train on; may be made later")
    parser.add_argument("--images", metavar="SHARDS", help="image shards to train on, for a model with images")
    parser.add_argument("--entity-store", metavar="STORE", help="entity store, for a model with knowledge")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="optimiser steps (default: 1000)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Import and say what to do next."""
    from rwtrain.export.importing import SETTINGS_FILE, import_folder

    config = import_folder(options.folder, options.out, text=options.text, images=options.images, entity_store=options.entity_store, steps=options.steps)
    model = config.model
    print(f"{options.out}: {model.num_hidden_layers} layers of width {model.hidden_size}, rows of {config.batch.seq_len} tokens, {config.steps} steps")
    print(f"next: rwtrain train {options.out / SETTINGS_FILE}")
    return 0
