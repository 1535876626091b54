"""`rwtrain tokenizer`: train a tokenizer on text files, or show one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from data_prep.tokenizer_training import train_tokenizer
from rwtrain.data.tokenizer import SPECIAL_PIECES, Tokenizer
from rwtrain.errors import DataError
from rwtrain.files import atomic_path

EPILOG = """examples:
  rwtrain tokenizer train notes.txt more.txt --out runs/tokenizer --vocab-size 8000
  rwtrain tokenizer show runs/demo/corpus/tokenizer --text "The quick brown fox"

A preparation trains its own tokenizer: see `rwtrain prep --help`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain tokenizer`."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="train on UTF-8 text files")
    train.add_argument("files", nargs="+", help="text files; every line is a sentence")
    train.add_argument("--out", required=True, help="folder for tokenizer.model")
    train.add_argument("--vocab-size", type=int, default=32_000, help="number of pieces (default: 32000)")
    train.set_defaults(run=run_train)
    show = actions.add_parser("show", help="describe a tokenizer, and how it splits a text")
    show.add_argument("tokenizer", help="tokenizer.model, or a folder with it")
    show.add_argument("--text", help="text to split")
    show.set_defaults(run=run_show)


def run_train(arguments: argparse.Namespace) -> int:
    """Train and save."""
    model = train_tokenizer(_texts(arguments.files), vocab_size=arguments.vocab_size)
    with atomic_path(Path(arguments.out) / "tokenizer.model") as temporary:
        temporary.write_bytes(model)
    return _show(Tokenizer(arguments.out))


def run_show(arguments: argparse.Namespace) -> int:
    """Describe a tokenizer."""
    tokenizer = Tokenizer(arguments.tokenizer)
    _show(tokenizer)
    if arguments.text is not None:
        ids = tokenizer.encode(arguments.text)
        print(f"{len(ids)} tokens: " + " | ".join(tokenizer.processor.id_to_piece(int(index)) for index in ids))
    return 0


def _show(tokenizer: Tokenizer) -> int:
    print(f"{tokenizer.path}: {tokenizer.vocab_size:,} pieces, hash {tokenizer.hash}")
    print("reserved: " + ", ".join(f"{index} {piece}" for index, piece in enumerate(SPECIAL_PIECES.values())))
    return 0


def _texts(files: list[str]) -> Iterator[str]:
    for file in files:
        try:
            yield Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(file, f"cannot be read ({error.strerror})", "Check the path") from error
        except UnicodeDecodeError as error:
            raise DataError(file, f"invalid UTF-8 at byte {error.start}", "Convert the file to UTF-8") from error
