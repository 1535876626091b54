"""`rwtrain export`: a run's checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rwtrain.errors import ConfigError
from rwtrain.export.weights import DTYPES, parse_size

EPILOG = """examples:
  rwtrain export runs/demo --out runs/demo/export --linker runs/linker --parity-python .venv-clean/bin/python
  rwtrain export runs/big/checkpoints/step-00010000 --out export --dtype bfloat16 --max-shard-size 5GB

The folder appears under its name only when it is whole and, unless --no-parity is given, has been loaded in a clean process
and has given the trained model's numbers. An environment for --parity-python is made by:
  python -m rwtrain.export.environment .venv-clean
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain export`."""
    parser.epilog = EPILOG
    parser.add_argument("source", type=Path, metavar="RUN", help="run folder, or one checkpoint in it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; an earlier export there is replaced")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="type of the weights on disk (default: float32)")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest weight file (default: 5GB)")
    parser.add_argument("--linker", type=Path, metavar="FOLDER", help="entity linker to ship with the model")
    parser.add_argument("--name", help="name in the model card (default: name of DIR)")
    parser.add_argument("--licence", default="other", help="licence identifier of the weights in the model card (default: other)")
    parser.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="FILE", help="output of `rwtrain eval … --json` for the model card (repeatable)"
    )
    parser.add_argument("--parity-python", type=Path, metavar="PATH", help="interpreter of an environment without rwtrain (default: this one, rwtrain blocked)")
    parser.add_argument("--no-parity", action="store_true", help="do not load the folder and compare it with the trained model")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from rwtrain.export.export import export_run

    report = export_run(
        options.source,
        options.out,
        dtype=options.dtype,
        max_shard_bytes=parse_size(options.max_shard_size),
        linker=options.linker,
        name=options.name,
        licence=options.licence,
        evaluations={path.stem: read_figures(path) for path in options.evaluation},
        parity=not options.no_parity,
        parity_python=options.parity_python,
    )
    print(f"{options.out}: {report['parameters']:,} parameters in {report['dtype']}, step {report['step']}")
    if report["parity"] is not None:
        where = "a separate environment" if report["parity"]["isolated"] else "a clean process"
        print(f"parity in {where}: largest difference {report['parity']['max_abs_diff']:.3g} (limit {report['parity']['tolerance']:g})")
        for name, text in report["parity"]["generated"].items():
            print(f"  {name}: {text!r}")
    return 0


def read_figures(path: Path) -> dict[str, Any]:
    """One JSON object from a file; raise `ConfigError` if it holds none."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not the output of `rwtrain eval … --json` ({error}). Write it again, or leave --evaluation out.") from error
    if not isinstance(figures, dict):
        raise ConfigError(f"{path}: holds no JSON object. Give the output of `rwtrain eval … --json`.")
    return figures
