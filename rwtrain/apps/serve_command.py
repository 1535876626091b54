"""`rwtrain serve`: the applications as one web page, with a JSON interface beside it."""

from __future__ import annotations

import argparse
import ipaddress
import secrets
from pathlib import Path

from rwtrain.apps.answer_command import HEAD, make_reader
from rwtrain.apps.gallery import ImageGallery
from rwtrain.apps.graph_answers import GraphAnswerer
from rwtrain.apps.memorisation import MemorisationIndex
from rwtrain.apps.model import AppModel
from rwtrain.apps.passages import PassageIndex
from rwtrain.apps.recommend.recommender import FOLDER, Recommender
from rwtrain.apps.words import read_words
from rwtrain.errors import ConfigError
from rwtrain.knowledge.store import EntityStore

EXAMPLES = """examples:
  rwtrain serve --model export                                      # writing and a look inside, at http://127.0.0.1:8080
  rwtrain serve --model export --index runs/index --store runs/kg   # and questions, to documents and to the graph
  rwtrain serve --model runs/recommender --gallery runs/gallery --memory runs/memory
  rwtrain serve --model export --host 0.0.0.0 --allow-host demo.example.org --token-file token.txt"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain serve`."""
    parser.epilog = EXAMPLES
    parser.add_argument("--model", type=Path, required=True, help="folder written by `rwtrain export` or `rwtrain recommend train`")
    parser.add_argument("--index", type=Path, help="folder written by `rwtrain answer index`")
    parser.add_argument("--head", type=Path, metavar="FOLDER", help=HEAD)
    parser.add_argument("--threshold", type=float, default=0.0, help="no answer below this score (default 0)")
    parser.add_argument("--store", type=Path, help="entity store of the model's linker: answers from the graph, reasons of recommendations")
    parser.add_argument("--relations", type=Path, help="file written by `rwtrain answer relations`")
    parser.add_argument("--memory", type=Path, help="folder written by `rwtrain write remember`")
    parser.add_argument("--words", type=Path, help="file written by `rwtrain write words`: what is spelled rightly")
    parser.add_argument("--gallery", type=Path, help="folder written by `rwtrain look gallery`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only); any other asks for a token")
    parser.add_argument("--port", type=int, default=8080, help="port (default 8080)")
    parser.add_argument("--allow-host", action="append", default=[], help="name under which the server is reached from outside (repeatable)")
    parser.add_argument("--token-file", type=Path, help="file with the token; without it a server that others can reach makes one and prints it")
    parser.add_argument("--check", action="store_true", help="open everything, say what would be served, and end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    from rwtrain.apps.web.desk import Desk
    from rwtrain.apps.web.limits import Limits
    from rwtrain.apps.web.server import serve

    app = AppModel.open(options.model)
    store = EntityStore.open(options.store) if options.store else None
    desk = Desk(
        app,
        index=PassageIndex.open(app, options.index) if options.index else None,
        reader=make_reader(app, options.head) if options.index else None,
        threshold=options.threshold,
        graph=GraphAnswerer(app, store, relations=options.relations) if store else None,
        recommender=Recommender.open(app, store=store) if (app.folder / FOLDER).is_dir() else None,
        memory=MemorisationIndex.open(options.memory, tokenizer_hash=app.tokenizer.hash) if options.memory else None,
        words=read_words(options.words) if options.words else None,
        gallery=ImageGallery.open(app, options.gallery) if options.gallery else None,
    )
    exposed = not is_loopback(options.host)
    token = read_token(options.token_file) if options.token_file else secrets.token_urlsafe(24) if exposed else None
    hosts = (*Limits.hosts, *options.allow_host) if not exposed or options.allow_host else ()
    reached = "127.0.0.1" if options.host in ("0.0.0.0", "::") else f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{reached}:{options.port}/"
    served = ["writing", "a look inside"]
    served += [name for name, part in (("documents", desk.index), ("graph", desk.graph), ("recommendation", desk.recommender)) if part is not None]
    print(f"{options.model}: {', '.join(served)} at {address}" + (f"?token={token}" if token and not options.token_file else ""), flush=True)
    if not options.check:
        serve(desk, Limits(token=token, hosts=hosts), host=options.host, port=options.port)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file; raises `ConfigError` if it is missing or too short to be safe."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: not readable ({error}). Write a token of 16 characters or more into it.") from error
    if len(token) < 16 or not token.isascii() or not token.isprintable() or any(mark in token for mark in ' ;,"\\'):
        raise ConfigError(f"{path}: the token must have 16 printable ASCII characters or more, without spaces, quotes, commas and semicolons.")
    return token
