"""`rwtrain link`: the entities in a text, coloured, with candidates and scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rwtrain.errors import DataError, RWTrainError
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.linking_refinedweb import SETTINGS_FILE, EntityLinker
from rwtrain.model.linking_run_refinedweb import Spot

EXAMPLES = """examples:
  rwtrain link "Obama met Merkel in Paris." --store runs/kg
  rwtrain link "Obama met Merkel in Paris." --linker runs/linker --all --candidates 5
  rwtrain link --linker runs/linker --left-context < article.txt
  rwtrain link --linker runs/linker --json < article.txt"""
COLOURS = (32, 36, 33, 35, 34)
GREY = 90


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain link`."""
    parser.epilog = EXAMPLES
    parser.add_argument("text", nargs="?", help="the text; read from standard input if left out")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", type=Path, help="an entity store; its linker is built for this call")
    source.add_argument("--linker", type=Path, help="a folder written by `rwtrain kg linker`")
    parser.add_argument("--left-context", action="store_true", help="decide each mention from the text up to its end, as in causal training")
    parser.add_argument("--candidates", type=int, default=3, help="candidates to print for each name (default 3)")
    parser.add_argument("--all", action="store_true", help="also print names that are known but not linked")
    parser.add_argument("--json", action="store_true", help="print one JSON object: every known name with span, candidates and scores")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Link one text and print it."""
    text = options.text if options.text is not None else sys.stdin.read()
    with tempfile.TemporaryDirectory(prefix="rwtrain-link-") as scratch:
        folder = options.linker
        if options.store is not None:
            folder = Path(scratch) / "linker"
            build_linker(EntityStore.open(options.store), folder)
        linker = open_linker(folder)
        spots = linker.explain(text, left_context=options.left_context)
    shown = [spot for spot in spots if spot.linked or options.all]
    if options.json:
        print(json.dumps({"text": text, "spots": [as_record(linker, spot, count=options.candidates) for spot in shown]}, ensure_ascii=False))
        return
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(coloured(text, spots, colour=colour))
    for number, spot in enumerate(shown):
        print(describe(linker, spot, number, count=options.candidates, colour=colour))


def as_record(linker: EntityLinker, spot: Spot, *, count: int) -> dict[str, Any]:
    """A spot for `--json`."""
    candidates = [{"entity": row, "label": linker.label(row), "score": score} for row, score in spot.candidates[:count]]
    return {"start": spot.start, "end": spot.end, "surface": spot.surface, "linked": spot.linked, "candidates": candidates}


def open_linker(folder: Path) -> EntityLinker:
    """Open a linker; its errors as errors of the command line."""
    try:
        return EntityLinker.open(folder)
    except FileNotFoundError as error:
        raise RWTrainError(str(error)) from error
    except ValueError as error:
        raise DataError(folder / SETTINGS_FILE, str(error).rstrip("."), "Build the linker again with `rwtrain kg linker`") from error


def paint(text: str, code: int, *, colour: bool) -> str:
    """`text` in a terminal colour."""
    return f"\033[{code}m{text}\033[0m" if colour else text


def coloured(text: str, spots: list[Spot], *, colour: bool) -> str:
    """The text with its linked mentions in colours, or in brackets where there are none."""
    parts, place = [], 0
    for number, spot in enumerate(sorted((spot for spot in spots if spot.linked), key=lambda spot: spot.start)):
        surface = spot.surface if colour else f"[{spot.surface}]"
        parts += [text[place : spot.start], paint(surface, COLOURS[number % len(COLOURS)], colour=colour)]
        place = spot.end
    return "".join([*parts, text[place:]])


def describe(linker: EntityLinker, spot: Spot, number: int, *, count: int, colour: bool) -> str:
    """One line: the name, its best candidates with scores."""
    names = ", ".join(f"{linker.label(row)} {score:.2f}" for row, score in spot.candidates[:count])
    more = f" (+{len(spot.candidates) - count})" if len(spot.candidates) > count else ""
    surface = paint(spot.surface, COLOURS[number % len(COLOURS)] if spot.linked else GREY, colour=colour)
    return f"  {surface} → {names}{more}{'' if spot.linked else '  (not linked)'}"
