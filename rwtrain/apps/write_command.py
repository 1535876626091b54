"""`rwtrain write`: continue, correct and fill text, and remember training data."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

from rwtrain.apps.infilling import fill
from rwtrain.apps.memorisation import MemorisationIndex, build_index
from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import Costs, correct, default_costs
from rwtrain.apps.words import LEAST, count_words, read_words
from rwtrain.apps.writing import Sampling, write
from rwtrain.arguments import positive_int
from rwtrain.errors import ConfigError
from rwtrain.files import write_text

GAP = "[…]"
EXAMPLES = f"""examples:
  rwtrain write on "The history of" --model export --max-new-tokens 80 --temperature 0.7
  rwtrain write on "The history of" --model export --memory runs/memory      # warns where 50 tokens repeat the training data
  rwtrain write correct "people has many book" --model export
  rwtrain write correct "people has book" --model export --words words.txt --cost article=4
  rwtrain write words runs/demo/prep/shards/text/train --model export --out words.txt   # a lexicon for --words
  rwtrain write fill "The capital of {GAP} is Paris." --model export
  rwtrain write remember runs/demo/prep/shards/text/train --out runs/memory"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain write`."""
    parser.epilog = EXAMPLES
    verbs = parser.add_subparsers(dest="action", required=True)
    on = verbs.add_parser("on", help="continue a text, as it is written")
    on.add_argument("text", nargs="?", help="the text; read from standard input if left out")
    defaults = Sampling()
    on.add_argument("--max-new-tokens", type=positive_int, default=defaults.max_new_tokens, help=f"most tokens written (default {defaults.max_new_tokens})")
    on.add_argument(
        "--temperature", type=float, default=defaults.temperature, help=f"divides the logits; 0: most probable token (default {defaults.temperature})"
    )
    on.add_argument("--top-k", type=int, default=defaults.top_k, help=f"draw among so many tokens; 0: all (default {defaults.top_k})")
    on.add_argument("--top-p", type=float, default=defaults.top_p, help=f"draw among tokens of this probability together (default {defaults.top_p})")
    on.add_argument("--repetition-penalty", type=float, default=defaults.repetition_penalty, help=f"1: none (default {defaults.repetition_penalty})")
    on.add_argument("--stop", action="append", default=[], help="end before this text (repeatable)")
    on.add_argument("--seed", type=int, default=defaults.seed, help=f"seed of the draws (default {defaults.seed})")
    on.add_argument("--memory", type=Path, help="index of training spans, to warn about text that repeats them")
    on.set_defaults(run=run_on)
    correct_verb = verbs.add_parser("correct", help="correct a text by small edits")
    correct_verb.add_argument("text", nargs="?", help="the text; read from standard input if left out")
    correct_verb.add_argument("--words", type=Path, help="file of rightly spelled words, one a line; default: the whole words of the tokenizer")
    correct_verb.add_argument(
        "--cost",
        type=_cost,
        action="append",
        default=[],
        metavar="KIND=GAIN",
        help=f"what an edit of a kind ({', '.join(field.name for field in fields(Costs))}) must gain in ln p (repeatable; inf: never)",
    )
    correct_verb.add_argument("--json", action="store_true", help="print one JSON object with the edits")
    correct_verb.set_defaults(run=run_correct)
    fill_verb = verbs.add_parser("fill", help=f"fill the gap {GAP} of a text")
    fill_verb.add_argument("text", help=f"a text with one {GAP}")
    fill_verb.add_argument("--max-tokens", type=positive_int, default=8, help="longest filling in tokens (default 8)")
    fill_verb.set_defaults(run=run_fill)
    remember = verbs.add_parser("remember", help="index the spans of training data, for --memory")
    remember.add_argument("shards", type=Path, help="text shards the model was trained on")
    remember.add_argument("--out", type=Path, required=True, help="folder to write")
    remember.set_defaults(run=run_remember)
    words_verb = verbs.add_parser("words", help="list the words of training data, for --words")
    words_verb.add_argument("shards", type=Path, help="text shards the model was trained on")
    words_verb.add_argument("--least", type=positive_int, default=LEAST, help=f"how often a word must stand there (default {LEAST})")
    words_verb.add_argument("--out", type=Path, required=True, help="file to write")
    words_verb.set_defaults(run=run_words)
    for each in (on, correct_verb, fill_verb, words_verb):
        each.add_argument("--model", type=Path, required=True, help="folder written by `rwtrain export`")


def _text(options: argparse.Namespace) -> str:
    return options.text if options.text is not None else sys.stdin.read()


def _cost(text: str) -> tuple[str, float]:
    """(kind, cost) of KIND=GAIN."""
    kind, _, cost = text.partition("=")
    if kind not in {field.name for field in fields(Costs)}:
        raise argparse.ArgumentTypeError(f"no kind of edit is called {kind!r}")
    try:
        return kind, float(cost)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}= and a number") from None


def run_on(options: argparse.Namespace) -> None:
    """Continue a text."""
    app = AppModel.open(options.model)
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")
    sampling = Sampling(**{name: getattr(options, name) for name in names}, stop=tuple(options.stop))
    memorised = MemorisationIndex.open(options.memory, tokenizer_hash=app.tokenizer.hash) if options.memory else None
    text, warned = _text(options), False
    print(text, end="", flush=True)
    for piece in write(app, text, sampling, memorised=memorised):
        print(piece.text, end="", flush=True)
        if piece.warning and not warned:
            print(f"\n[warning: {piece.warning}]", file=sys.stderr, flush=True)
            warned = True
    print()


def run_correct(options: argparse.Namespace) -> None:
    """Correct a text."""
    words = read_words(options.words) if options.words else None
    costs = replace(default_costs(words), **dict(options.cost))
    found = correct(AppModel.open(options.model), _text(options), costs=costs, words=words)
    print(json.dumps({"text": found.text, "edits": [vars(edit) for edit in found.edits]}, ensure_ascii=False) if options.json else found.text)


def run_fill(options: argparse.Namespace) -> None:
    """Fill a gap."""
    before, gap, after = options.text.partition(GAP)
    if not gap or GAP in after:
        raise ConfigError(f"The text must have one gap, written {GAP}.")
    for filling in fill(AppModel.open(options.model), before, after, max_tokens=options.max_tokens):
        print(f"{filling.score:7.2f}  {before}{filling.text}{after}")


def run_words(options: argparse.Namespace) -> None:
    """List words."""
    found = count_words(AppModel.open(options.model), options.shards, least=options.least, progress=sys.stderr.isatty())
    write_text(options.out, "\n".join((*found, "")))
    print(f"{options.out}: {len(found):,} words")


def run_remember(options: argparse.Namespace) -> None:
    """Index training spans."""
    manifest = build_index(options.shards, options.out, progress=sys.stderr.isatty())
    print(f"{options.out}: {manifest['spans']:,} spans of {manifest['span_tokens']} tokens")
