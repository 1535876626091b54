"""`rwtrain pairs`."""

from __future__ import annotations

import argparse

from data_prep.pairs import Fields, write_pairs
from rwtrain.data.tokenizer import Tokenizer

EPILOG = """examples:
  rwtrain pairs questions.jsonl --first question --second answer --tokenizer runs/prep/tokenizer --out runs/pairs
  rwtrain pairs articles.jsonl --first title --second text --tokenizer runs/prep/tokenizer --out runs/pairs
  rwtrain pairs en-de.tsv --first en --second de --tokenizer runs/prep/tokenizer --out runs/pairs

Train on them with data.pairs=runs/pairs, batch.pair_views=given, batch.pair_rows=… and, where there are hard negatives, batch.hard_negatives=true."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain pairs`."""
    parser.epilog = EPILOG
    parser.add_argument("files", nargs="+", help="JSON lines, or tables with a header (.tsv, .csv), also gzipped")
    parser.add_argument("--tokenizer", required=True, help="sentencepiece model, the one of the other training data")
    parser.add_argument("--out", required=True, help="folder for the shards")
    parser.add_argument("--first", default="first", metavar="FIELD", help="field of the first text (default: first)")
    parser.add_argument("--second", default="second", metavar="FIELD", help="field of the second text (default: second)")
    parser.add_argument("--negative", default="negative", metavar="FIELD", help="field of the hard negative, where a record has one (default: negative)")
    parser.add_argument("--group", default="group", metavar="FIELD", help="field whose value marks pairs that are not each other's negatives")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the shards and say what is in them."""
    fields = Fields(arguments.first, arguments.second, arguments.negative, arguments.group)
    manifest = write_pairs(arguments.files, arguments.out, tokenizer=Tokenizer(arguments.tokenizer), fields=fields)
    hard = manifest["provenance"]["hard_negatives"]
    print(f"{arguments.out}: {manifest['documents']:,} pairs, {hard:,} with a hard negative, {manifest['tokens']:,} tokens")
    return 0
