"""`rwtrain export`: a run's checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rwtrain.errors import ConfigError
from rwtrain.export.completeness import is_export
from rwtrain.export.energy import GRID_G_PER_KWH, Power
from rwtrain.export.weights import DTYPES, parse_size

EPILOG = """examples:
  rwtrain export runs/demo --out runs/demo/export --linker runs/linker --parity-python .venv-clean/bin/python
  rwtrain export runs/big/checkpoints/step-00010000 --out export --dtype bfloat16 --max-shard-size 5GB

  rwtrain export runs/demo --out runs/demo/export --with-knowledge --onnx --push me/demo
  rwtrain export runs/demo/export --push me/demo                # an export that is there already

The folder appears under its name only when it is whole and, unless --no-parity is given, has been loaded in a clean process
and has given the trained model's numbers. An environment for --parity-python is made by:
  python -m rwtrain.export.environment .venv-clean
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain export`."""
    parser.epilog = EPILOG
    parser.add_argument("source", type=Path, metavar="RUN", help="run folder, or one checkpoint in it; with --push also an exported folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write; an earlier export there is replaced")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="type of the weights on disk (default: float32)")
    parser.add_argument("--average", action="store_true", help="write the moving average of the weights, kept by optimizer.ema_decay")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest weight file (default: 5GB)")
    knowledge = parser.add_mutually_exclusive_group()
    knowledge.add_argument("--linker", type=Path, metavar="FOLDER", help="entity linker to ship with the model")
    knowledge.add_argument(
        "--with-knowledge", action="store_true", help="ship the linker that the training data was linked with, or one built from the run's store"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="also write the text encoder as onnx/model.onnx, compared with the trained model (needs the extra onnx)"
    )
    parser.add_argument("--name", help="name in the model card (default: name of DIR)")
    parser.add_argument("--licence", default="other", help="licence identifier of the weights in the model card (default: other)")
    parser.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="FILE", help="output of `rwtrain eval … --json` for the model card (repeatable)"
    )
    parser.add_argument(
        "--watts", type=float, metavar="W", help="power that one rank drew, cooling included, for the model card's estimate of energy and carbon"
    )
    parser.add_argument(
        "--grid", type=float, default=GRID_G_PER_KWH, metavar="G", help=f"grams of CO2e per kWh of the grid (default: {GRID_G_PER_KWH:g}, the world's mean)"
    )
    parser.add_argument("--push", metavar="REPO", help="upload the whole folder to the hub as owner/name (token: `hf auth login` or HF_TOKEN)")
    parser.add_argument("--public", action="store_true", help="with --push: make a new repository public")
    parser.add_argument("--parity-python", type=Path, metavar="PATH", help="interpreter of an environment without rwtrain (default: this one, rwtrain blocked)")
    parser.add_argument("--no-parity", action="store_true", help="do not load the folder and compare it with the trained model")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    if options.out is None:
        if not options.push or not is_export(options.source):
            raise ConfigError("Give --out DIR, or with --push an exported folder in place of RUN.")
        return push(options.source, options)
    from rwtrain.export.export import export_run

    report = export_run(
        options.source,
        options.out,
        dtype=options.dtype,
        max_shard_bytes=parse_size(options.max_shard_size),
        linker=options.linker,
        with_knowledge=options.with_knowledge,
        onnx=options.onnx,
        power=Power(options.watts, options.grid),
        name=options.name,
        licence=options.licence,
        evaluations={path.stem: read_figures(path) for path in options.evaluation},
        parity=not options.no_parity,
        parity_python=options.parity_python,
        average=options.average,
    )
    print(f"{options.out}: {report['parameters']:,} parameters in {report['dtype']}, step {report['step']}")
    if report["parity"] is not None:
        where = "a separate environment" if report["parity"]["isolated"] else "a clean process"
        print(f"parity in {where}: largest difference {report['parity']['max_abs_diff']:.3g} (limit {report['parity']['tolerance']:g})")
        for name, text in report["parity"]["generated"].items():
            print(f"  {name}: {text!r}")
    if report["onnx"] is not None:
        print(f"ONNX text encoder: largest difference {report['onnx']:.3g}")
    return push(options.out, options) if options.push else 0


def push(folder: Path, options: argparse.Namespace) -> int:
    """Upload a whole folder and print where it is."""
    from rwtrain.export.push import push_folder

    print(push_folder(folder, options.push, private=not options.public))
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
