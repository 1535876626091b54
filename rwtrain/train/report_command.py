"""`rwtrain report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rwtrain.train.report import write_report

EPILOG = """examples:
  rwtrain report runs/demo/train
  rwtrain report runs/demo/train --out /tmp/run.html

The page needs no other file and no network, also while the run goes on: losses, learning rate, gradient norm, temperatures, gate
openness, speed, MFU, stalls, memory, and what happened (resumes, skips, rewinds, checkpoints)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain report`."""
    parser.epilog = EPILOG
    parser.add_argument("path", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page to write (default: RUN/report.html)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    print(write_report(arguments.path, arguments.out))
    return 0
