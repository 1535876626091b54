"""The command line: `rwtrain VERB`. A verb's module is imported only when that verb is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from rwtrain import __version__
from rwtrain.errors import RWTrainError
from rwtrain.verbs import VERBS

EXIT_USER_ERROR = 2


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser; only `verb`'s own arguments are filled in, so that other verbs' dependencies are not imported."""
    parser = argparse.ArgumentParser(
        prog="rwtrain",
        description="From web pages to a Hugging Face folder: prepare data, train with DeepSpeed ZeRO-3, export.",
        epilog="examples:\n  rwtrain demo\n  rwtrain prep --help\n  rwtrain train examples/demo/train.yaml --processes 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rwtrain {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, extra, help_text) in VERBS.items():
        subparser = subparsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".", formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == verb:
            try:
                importlib.import_module(module).configure(subparser)
            except ModuleNotFoundError as error:
                if error.name and error.name.split(".")[0] in {"rwtrain", "data_prep", "launch"}:
                    raise
                raise RWTrainError(f"`rwtrain {name}` needs the package {error.name}. Install it with: pip install 'rwtrain[{extra}]'") from error
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error (anywhere on the command line)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status: 0 success, 2 a problem the user can fix."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    debug = "--debug" in arguments
    try:
        options = build_parser(verb).parse_args([word for word in arguments if word != "--debug"], argparse.Namespace(debug=debug))
        return int(options.run(options) or 0)
    except RWTrainError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:  # the reader of our output went away, e.g. `rwtrain ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
