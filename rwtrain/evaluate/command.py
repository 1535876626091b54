"""`rwtrain eval`: figures of a model or a knowledge graph, each beside chance or a baseline."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwtrain.errors import RWTrainError

EPILOG = """examples:
  rwtrain eval lm runs/demo --data data/held-out
  rwtrain eval zeroshot runs/demo/export --data test.parquet --classes classes.yaml --json
  rwtrain eval retrieval runs/demo --data data/images-held-out
  rwtrain eval sts runs/demo pairs.tsv
  rwtrain eval glue runs/sst2/export SST-2/dev.tsv --train SST-2/train.tsv
  rwtrain eval kg runs/kg --split test
  rwtrain eval linking gold.jsonl --linker runs/linker --store runs/kg

MODEL is a run folder (its latest checkpoint), one checkpoint of a run, or an exported folder."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `rwtrain eval`."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="WHAT", required=True)
    _configure_lm(actions.add_parser("lm", help="held-out perplexity, beside a unigram and an untrained model"))
    _configure_zero_shot(actions.add_parser("zeroshot", help="zero-shot image classification, beside chance"))
    _configure_retrieval(actions.add_parser("retrieval", help="image-text recall@1, 5 and 10, beside chance"))
    _configure_sts(actions.add_parser("sts", help="correlation of sentence similarity with people's scores"))
    _configure_glue(actions.add_parser("glue", help="official figures of a model fine-tuned by `rwtrain finetune`, beside simple baselines"))
    _configure_kg(actions.add_parser("kg", help="filtered link prediction of a knowledge graph's vectors"))
    _configure_linking(actions.add_parser("linking", help="entity linking against texts with gold mentions"))


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder, checkpoint or exported folder")
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.set_defaults(run=run)


def _configure_lm(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="SHARDS", help="held-out shards")
    parser.add_argument("--train-data", type=Path, metavar="SHARDS", help="training shards, counted for the unigram model (default: those of the run)")
    parser.add_argument("--entities", type=Path, metavar="STORE", help="entity store: also report the perplexity with the mentions' vectors")
    parser.add_argument("--seq-len", type=int, metavar="TOKENS", help="longest window (default: the row length of training)")
    parser.add_argument("--max-documents", type=int, metavar="N", help="evaluate the first N documents")
    parser.add_argument("--no-untrained", action="store_true", help="leave out the comparison with an untrained model")
    _finish(parser, run_lm)


def _configure_zero_shot(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="Parquet file with the columns image (encoded) and label (number or name)")
    parser.add_argument("--classes", type=Path, required=True, metavar="FILE", help="YAML file with `classes` and `templates`")
    parser.add_argument("--max-images", type=int, metavar="N", help="evaluate the first N images")
    _finish(parser, run_zero_shot)


def _configure_retrieval(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="SHARDS", help="shards of images with captions")
    parser.add_argument("--max-documents", type=int, metavar="N", help="evaluate the first N documents")
    _finish(parser, run_retrieval)


def _configure_sts(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help=".jsonl, .tsv or .csv file with sentence1, sentence2 and score")
    parser.add_argument("--no-untrained", action="store_true", help="leave out the comparison with an untrained model")
    _finish(parser, run_sts)


def _configure_glue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="FOLDER", help="RUN/export of a fine-tuning run")
    parser.add_argument("file", type=Path, metavar="FILE", help="file of the task's format, with labels")
    parser.add_argument("--train", type=Path, metavar="FILE", help="training file, for the baselines")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="write the predictions there")
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    _finish(parser, run_glue)


def _configure_kg(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="entity store with trained vectors")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="triples to rank (default: test)")
    _finish(parser, run_kg)


def _configure_linking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gold", type=Path, metavar="GOLD", help="JSON lines with text, labels [{span, entity_id}] and evaluation_span")
    parser.add_argument("--linker", type=Path, required=True, metavar="FOLDER", help="entity linker")
    parser.add_argument("--store", type=Path, required=True, metavar="STORE", help="the entity store it was built from")
    parser.add_argument("--left-context", action="store_true", help="link as training does: only the text left of a mention is seen")
    _finish(parser, run_linking)


def run_lm(options: argparse.Namespace) -> int:
    from rwtrain.data.shards import ShardDataset
    from rwtrain.evaluate.language_modelling import evaluate_language_modelling
    from rwtrain.evaluate.model import open_model
    from rwtrain.knowledge.store import EntityStore

    model = open_model(options.model, device=options.device)
    train = ShardDataset(options.train_data) if options.train_data else model.run.datasets.get("text") if model.run else None
    figures = evaluate_language_modelling(
        model,
        ShardDataset(options.data),
        train=train,
        entities=EntityStore.open(options.entities) if options.entities else None,
        seq_len=options.seq_len,
        max_documents=options.max_documents,
        compare_untrained=not options.no_untrained,
        progress=True,
    )
    return report(figures, as_json=options.json)


def run_zero_shot(options: argparse.Namespace) -> int:
    from rwtrain.evaluate.model import open_model
    from rwtrain.evaluate.zero_shot import Classes, evaluate_zero_shot

    classes = Classes.read(options.classes)
    model = open_model(options.model, device=options.device)
    return report(evaluate_zero_shot(model, options.data, classes, max_images=options.max_images, progress=True), as_json=options.json)


def run_retrieval(options: argparse.Namespace) -> int:
    from rwtrain.data.shards import ShardDataset
    from rwtrain.evaluate.model import open_model
    from rwtrain.evaluate.retrieval import evaluate_retrieval

    model = open_model(options.model, device=options.device)
    return report(evaluate_retrieval(model, ShardDataset(options.data), max_documents=options.max_documents, progress=True), as_json=options.json)


def run_sts(options: argparse.Namespace) -> int:
    from rwtrain.evaluate.model import open_model
    from rwtrain.evaluate.similarity import evaluate_similarity

    model = open_model(options.model, device=options.device)
    return report(evaluate_similarity(model, options.file, compare_untrained=not options.no_untrained, progress=True), as_json=options.json)


def run_glue(options: argparse.Namespace) -> int:
    from rwtrain.finetune.files import read_examples
    from rwtrain.finetune.predicting import Predictor, baselines, judge, write_predictions

    predictor = Predictor.open(options.model, device=options.device)
    task, labels = predictor.spec, tuple(predictor.task["labels"])
    examples = read_examples(options.file, task, labels=labels)
    predictions = predictor.predict(examples, progress=True)
    if options.predictions is not None:
        write_predictions(options.predictions, predictor.task, examples, predictions)
    figures: dict[str, Any] = {"task": predictor.task["task"], "examples": len(examples), **judge(predictor.task, examples, predictions)}
    if options.train is not None:
        train = [example for example in read_examples(options.train, task, labels=labels) if example.label is not None or task.kind == "answer"]
        figures["baselines"] = baselines(predictor.task, train, examples)
    return report(figures, as_json=options.json)


def run_kg(options: argparse.Namespace) -> int:
    from rwtrain.knowledge.evaluate import evaluate_link_prediction
    from rwtrain.knowledge.store import EntityStore

    return report(evaluate_link_prediction(EntityStore.open(options.store), split=options.split, progress=True), as_json=options.json)


def run_linking(options: argparse.Namespace) -> int:
    from rwtrain.knowledge.gold import evaluate_linking
    from rwtrain.knowledge.store import EntityStore
    from rwtrain.model.linking_refinedweb import EntityLinker

    try:
        linker = EntityLinker.open(options.linker)
    except (OSError, ValueError) as error:
        raise RWTrainError(str(error)) from error
    return report(evaluate_linking(linker, EntityStore.open(options.store), options.gold, left_context=options.left_context), as_json=options.json)


def report(figures: dict[str, Any], *, as_json: bool) -> int:
    """Print figures, as one JSON object or one per line; return the exit status 0."""
    if as_json:
        print(json.dumps(figures, ensure_ascii=False))
        return 0
    flat = flatten(figures)
    width = max(map(len, flat))
    for key, value in flat.items():
        print(f"{key:{width}}  {'-' if value is None else f'{value:.4g}' if isinstance(value, float) else value}")
    return 0


def flatten(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures in groups, at any depth, as one level of "group key"; those without a group first."""
    flat = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    for group, values in figures.items():
        if isinstance(values, dict):
            flat |= {f"{group} {key}": value for key, value in flatten(values).items()}
    return flat
