"""`rwtrain kg`: import a knowledge graph, train TransE, look at entities."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rwtrain.config.load import load_config
from rwtrain.errors import RWTrainError
from rwtrain.knowledge.store import EntityStore

if TYPE_CHECKING:
    from rwtrain.knowledge.transe import TransEConfig

FORMATS = ("tsv", "ntriples", "wikidata")

EXAMPLES = """examples:
  rwtrain kg import examples/data/fb15k237 --out runs/kg
  rwtrain kg import latest-all.json.gz --out runs/wikidata --languages en,de,zh --keep wikipedia
  rwtrain kg anchors runs/wikidata enwiki-latest-pages-articles.xml.bz2
  rwtrain kg train runs/kg --config examples/demo/kg.yaml
  rwtrain kg train runs/kg --minutes 10 --set dimension=256
  rwtrain kg train runs/kg --processes 2
  rwtrain kg show runs/kg Q76
  rwtrain kg plot runs/kg --out space.png
  rwtrain kg linker runs/kg --out runs/linker
  rwtrain kg calibrate runs/linker --store runs/kg gold.jsonl"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `rwtrain kg`."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_import(actions.add_parser("import", help="read triples and names into an entity store"))
    _configure_anchors(actions.add_parser("anchors", help="count what links in Wikipedia dumps call the entities"))
    _configure_train(actions.add_parser("train", help="train TransE vectors and put them into the store"))
    _configure_show(actions.add_parser("show", help="an entity, its neighbours in the graph and the nearest in vector space"))
    _configure_plot(actions.add_parser("plot", help="draw the vector space, coloured by type"))
    _configure_linker(actions.add_parser("linker", help="write the table that links text to the store's entities"))
    _configure_calibrate(actions.add_parser("calibrate", help="learn from texts with gold mentions what a linker should link"))


IMPORT_EXAMPLES = """formats:
  tsv       a folder with train, valid and test .tsv (or .txt) and names in entity2wikidata.json, as FB15k-237
  ntriples  N-Triples (.nt)
  wikidata  a Wikidata JSON dump (take the .gz: it is decompressed far faster than the .bz2)

A killed import goes on where it was when the same command is given again.

examples:
  rwtrain kg import examples/data/fb15k237 --out runs/kg
  rwtrain kg import graph.nt.bz2 --out runs/kg --languages en,de
  rwtrain kg import latest-all.json.gz --out runs/wikidata --languages en,de,zh --keep wikipedia"""


def _configure_import(parser: argparse.ArgumentParser) -> None:
    from rwtrain.knowledge.import_wikidata import KEEP

    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, IMPORT_EXAMPLES
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder of tab-separated triples, or a file: plain, .gz or .bz2")
    parser.add_argument("--format", choices=FORMATS, help="what SOURCE is (default: a folder is tsv, a name with .nt is ntriples, one with .json is wikidata)")
    parser.add_argument("--languages", default="en", help="languages of names to keep, the preferred one first (default en; example en,de,zh)")
    keep = "; ".join(f"{name}: {meaning}" for name, meaning in KEEP.items())
    parser.add_argument("--keep", choices=KEEP, default="named", help=f"wikidata: which items become entities (default named). {keep}")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that parse (default: all cores)")
    parser.add_argument("--out", type=Path, required=True, metavar="STORE", help="the entity store to write")
    parser.set_defaults(run=run_import)


ANCHORS_EXAMPLES = """The counts become anchors.arrow in the store (surface, entity, count); the linker reads them as p(entity | name).

example:
  rwtrain kg anchors runs/wikidata enwiki-latest-pages-articles.xml.bz2"""


def _configure_anchors(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, ANCHORS_EXAMPLES
    parser.add_argument("store", type=Path, metavar="STORE", help="an entity store whose entities have Wikipedia titles")
    parser.add_argument("dumps", type=Path, nargs="+", metavar="DUMP", help="pages-articles XML dumps: plain, .gz or .bz2")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that parse (default: all cores)")
    parser.set_defaults(run=run_anchors)


def _configure_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="an entity store written by `rwtrain kg import`")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file with settings of TransE")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the training triples")
    length.add_argument("--minutes", type=float, help="wall time; the number of updates is fixed after a short measurement")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="one setting, for example --set dimension=256")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="ranks to start on this machine; each holds every N-th row (default: 1)")
    parser.add_argument("--force", action="store_true", help="train again although vectors with the same settings are there")
    parser.set_defaults(run=run_train)


SHOW_EXAMPLES = """examples:
  rwtrain kg show runs/kg "Barack Obama"
  rwtrain kg show runs/kg Q76 --count 30
  rwtrain kg show runs/kg /m/02mjmr"""
PLOT_EXAMPLES = """examples:
  rwtrain kg plot runs/kg --out space.png
  rwtrain kg plot runs/kg --out space.html --entities 5000"""


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, SHOW_EXAMPLES
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("entity", metavar="ENTITY", help="its id in the graph, its Wikidata id, or its label or alias in full")
    parser.add_argument("--count", type=int, default=10, help="how many relations and nearest entities to print (default 10)")
    parser.set_defaults(run=run_show)


def _configure_plot(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, PLOT_EXAMPLES
    parser.add_argument("store", type=Path, metavar="STORE", help="a store with vectors")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png (needs matplotlib), or an .html that names the entities")
    parser.add_argument("--entities", type=int, default=20_000, metavar="N", help="draw the N most popular ones (default 20000)")
    parser.set_defaults(run=run_plot)


def _configure_linker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the linker's folder")
    parser.set_defaults(run=run_linker)


CALIBRATE_EXAMPLES = """The learned settings are written into the linker. Texts used here must not be used to judge it.

examples:
  rwtrain kg calibrate runs/linker --store runs/kg gold-a.jsonl gold-b.jsonl.gz
  rwtrain kg calibrate runs/linker --store runs/kg gold.jsonl --bias-only"""


def _configure_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.epilog = CALIBRATE_EXAMPLES
    parser.add_argument("linker", type=Path, metavar="LINKER", help="a folder written by `rwtrain kg linker`")
    parser.add_argument("gold", type=Path, nargs="+", metavar="GOLD", help="files of texts with gold mentions (JSON lines, as for `rwtrain eval linking`)")
    parser.add_argument("--store", type=Path, required=True, metavar="STORE", help="the entity store the linker was built from")
    parser.add_argument("--bias-only", action="store_true", help="keep the weights, learn only how sure a link must be")
    parser.set_defaults(run=run_calibrate)


def run_import(options: argparse.Namespace) -> None:
    """Import, then print counts and what was set aside."""
    from rwtrain.knowledge.import_ntriples import import_ntriples
    from rwtrain.knowledge.import_tsv import import_tsv
    from rwtrain.knowledge.import_wikidata import import_wikidata

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    languages = [language.strip() for language in options.languages.split(",") if language.strip()]
    if not languages:
        raise RWTrainError("--languages: give at least one, for example en,de,zh.")
    _check_workers(options.workers)
    how = {"languages": languages, "workers": options.workers, "quiet": False}
    form = options.format or _format_of(options.source)
    if form == "tsv":
        manifest = import_tsv(options.source, options.out, **how)
    elif form == "ntriples":
        manifest = import_ntriples(options.source, options.out, **how)
    else:
        manifest = import_wikidata(options.source, options.out, keep=options.keep, **how)
    triples = ", ".join(f"{count:,} {split}" for split, count in manifest["triples"].items())
    print(f"{options.out}: {manifest['entities']:,} entities, {manifest['relations']:,} relations, triples: {triples}")
    for reason, count in manifest["rejects"].items():
        print(f"  set aside: {count:,} × {reason} (see {options.out / 'rejects.jsonl'})")
    for reason, count in manifest["dropped"].items():
        print(f"  left out: {count:,} × {reason}")


def run_anchors(options: argparse.Namespace) -> None:
    """Count, then print how many links lead to entities."""
    from rwtrain.knowledge.anchors import count_anchors

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _check_workers(options.workers)
    details = count_anchors(EntityStore.open(options.store), options.dumps, workers=options.workers, quiet=False)
    print(
        f"{options.store}: {details['linked']:,} of {details['links']:,} links of {details['articles']:,} articles lead to entities: "
        f"{details['surfaces']:,} texts, {details['pairs']:,} pairs of text and entity"
    )
    if details["cyclic_redirects"]:
        print(f"  left out: {details['cyclic_redirects']:,} redirects in circles")
    for reason, count in details["rejects"].items():
        print(f"  set aside: {count:,} × {reason} (see {options.store / 'anchors.rejects.jsonl'})")


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise RWTrainError(f"--workers {workers}: give at least 1.")


def _format_of(source: Path) -> str:
    if source.is_dir() or not source.exists():
        return "tsv"
    if ".nt" in source.suffixes:
        return "ntriples"
    if ".json" in source.suffixes:
        return "wikidata"
    raise RWTrainError(f"{source}: its name does not tell its format. Give --format {' or '.join(FORMATS)}.")


def run_train(options: argparse.Namespace) -> int:
    """Train, here or in ranks, then print filtered test figures beside those of a random order."""
    from rwtrain.knowledge.transe import TransEConfig

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    overrides = list(options.overrides)
    overrides += [f"epochs={options.epochs}"] if options.epochs is not None else []
    overrides += [f"minutes={options.minutes}"] if options.minutes is not None else []
    config = load_config(TransEConfig, options.config, overrides)
    store = EntityStore.open(options.store)
    if options.processes > 1 and "RANK" not in os.environ:
        from launch.local import run_ranks

        arguments = [str(options.store), *(["--config", str(options.config)] if options.config else []), *(f"--set={item}" for item in overrides)]
        command = [sys.executable, "-m", "rwtrain.cli", "kg", "train", *arguments, *(["--force"] if options.force else [])]
        return run_ranks(command, processes=options.processes)
    return _train(store, config, force=options.force)


def _train(store: EntityStore, config: TransEConfig, *, force: bool) -> int:
    from rwtrain.knowledge.evaluate import evaluate_link_prediction
    from rwtrain.knowledge.rows import joined_ranks
    from rwtrain.knowledge.training import train_transe

    with joined_ranks(config.device) as place:
        details = train_transe(store, config, force=force)
    if place.rank:
        return 0
    print(f"{store.folder}: vectors of dimension {config.dimension}, {details['steps']:,} updates in {details['seconds']:.0f} s")
    if not len(store.triples("test")):
        return 0
    figures = evaluate_link_prediction(store, progress=True)
    hits = ", ".join(f"Hits@{k} {figures[f'hits{k}']:.3f}" for k in (1, 3, 10))
    print(f"test, filtered: MRR {figures['mrr']:.3f} (chance {figures['chance_mrr']:.4f}), {hits}")
    return 0


def run_show(options: argparse.Namespace) -> None:
    """Print an entity card."""
    from rwtrain.knowledge.show import entity_card

    print(entity_card(EntityStore.open(options.store), options.entity, count=options.count))


def run_plot(options: argparse.Namespace) -> None:
    """Draw the vectors."""
    from rwtrain.knowledge.plot import plot_store

    if options.entities < 3:
        raise RWTrainError(f"--entities {options.entities}: give at least 3.")
    counts = plot_store(EntityStore.open(options.store), options.out, entities=options.entities)
    print(f"{options.out}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


def run_linker(options: argparse.Namespace) -> None:
    """Write the linker's folder."""
    from rwtrain.knowledge.linker import build_linker

    if options.out.resolve() == options.store.resolve():
        raise RWTrainError(f"--out {options.out} is the store itself. Give another folder.")
    details = build_linker(EntityStore.open(options.store), options.out)
    print(
        f"{options.out}: {details['forms']:,} surface forms of {details['entities']:,} entities, {details['table_bytes'] / details['forms']:.0f} bytes a form"
    )


def run_calibrate(options: argparse.Namespace) -> None:
    """Learn the linker's settings and keep them."""
    from rwtrain.knowledge.calibration import calibrate, read_documents, write_settings
    from rwtrain.knowledge.gold import evaluate_documents
    from rwtrain.knowledge.link_command import open_linker

    linker, store, documents = open_linker(options.linker), EntityStore.open(options.store), read_documents(options.gold)
    before = evaluate_documents(linker, store, documents)
    calibrate(linker, store, documents, weights=not options.bias_only)
    write_settings(linker)
    after = evaluate_documents(linker, store, documents)
    print(f"{options.linker}: learned from {after['mentions']:,} mentions in {after['documents']:,} texts; F1 on them {before['f1']:.3f} → {after['f1']:.3f}")
