"""`rwtrain look`: what the model makes of a text or an image."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.inside import Look, look, look_at_image
from rwtrain.apps.model import AppModel
from rwtrain.arguments import positive_int
from rwtrain.errors import DataError

EXAMPLES = """examples:
  rwtrain look text "Barack Obama was born in Honolulu." --model export
  rwtrain look gallery photos/ --model export --out runs/gallery
  rwtrain look text "a dog in the snow" --model export --gallery runs/gallery --json
  rwtrain look image photo.jpg "a dog" --model export"""
SHADES = " ░▒▓█"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain look`."""
    parser.epilog = EXAMPLES
    verbs = parser.add_subparsers(dest="action", required=True)
    text = verbs.add_parser("text", help="entity links, gate openness, expected entities, near images")
    text.add_argument("text")
    text.add_argument("--gallery", type=Path, help="folder written by `rwtrain look gallery`")
    text.add_argument("--near", type=positive_int, default=5, help="how many near entities and images (default 5)")
    text.set_defaults(run=run_text)
    gallery = verbs.add_parser("gallery", help="embed a folder of images")
    gallery.add_argument("images", type=Path)
    gallery.add_argument("--out", type=Path, required=True, help="folder to write")
    gallery.set_defaults(run=run_gallery)
    image = verbs.add_parser("image", help="which patches of an image a text attends to")
    image.add_argument("image", type=Path)
    image.add_argument("text")
    image.set_defaults(run=run_image)
    for each in (text, gallery, image):
        each.add_argument("--model", type=Path, required=True, help="folder written by `rwtrain export`")
    for each in (text, image):
        each.add_argument("--json", action="store_true", help="print one JSON object")


def run_text(options: argparse.Namespace) -> None:
    """Look at a text."""
    app = AppModel.open(options.model)
    found = look(app, options.text, gallery=ImageGallery.open(app, options.gallery) if options.gallery else None, near=options.near)
    print(json.dumps(found.as_dict(), ensure_ascii=False) if options.json else "\n".join(describe(found)))


def describe(found: Look) -> list[str]:
    """A look in words."""
    lines = []
    for link, expected in zip(found.links, found.entities, strict=True):
        opened = ", ".join(f"layer {layer}: {found.openness[row][link.end_token - 1]:.3f}" for row, layer in enumerate(found.gate_layers))
        lines.append(f"{''.join(found.tokens[link.first_token : link.end_token]).strip()} → {link.label} ({link.score:.2f}); gate openness {opened}")
        lines.append(f"    expected from the text before: {', '.join(f'{near.name} {near.cosine:.2f}' for near in expected)}")
    if not found.links:
        lines.append("no entity is linked")
    lines += [f"image {near.name} {near.cosine:.3f}" for near in found.images]
    return lines


def run_gallery(options: argparse.Namespace) -> None:
    """Embed images."""
    gallery, rejected = ImageGallery.build(AppModel.open(options.model), options.images, options.out, progress=sys.stderr.isatty())
    print(f"{options.out}: {len(gallery.names):,} images, {len(rejected)} left out")
    for name, reason in rejected.items():
        print(f"  {name}: {reason}", file=sys.stderr)


def run_image(options: argparse.Namespace) -> None:
    """Look at an image."""
    try:
        encoded = options.image.read_bytes()
    except OSError as error:
        raise DataError(options.image, f"not readable ({error})", "Correct the path") from error
    found = look_at_image(AppModel.open(options.model), encoded, options.text)
    if options.json:
        print(json.dumps({"tokens": found.tokens, "grid": found.grid, "attention": found.attention.tolist()}, ensure_ascii=False))
        return
    shares = found.attention.mean(0)
    for token, share in zip(found.tokens, shares, strict=True):
        marks = "".join(SHADES[min(len(SHADES) - 1, int(value / max(share.max(), 1e-9) * (len(SHADES) - 1) + 0.5))] for value in share)
        print(f"{token!r:16s} {share.sum():.2f} of its attention  " + "|".join(marks[row : row + found.grid[1]] for row in range(0, len(marks), found.grid[1])))
