"""Does knowledge help? The same model with TransE vectors, with shuffled vectors (each entity has another's), and without.

    python -m benchmarks.evidence.knowledge --data DIR [--quick | --large] [--seeds N]

FB15k-237 is imported and TransE trained on it; FewRel's Wikipedia sentences are linked to it (FewRel's own mentions, and what our linker finds
besides). A training reads sentences from left to right (next-token loss; vectors enter at a mention's last token), and in both directions sentences
whose relation is told from their pooled embedding, in some of which one mention is hidden (its tokens are predicted, and InfoNCE compares its state
with its entity's vector). Shuffled vectors still tell
entities apart, so what counts is the test on sentences whose entities' vectors never entered in training ("unseen"); "seen" are held-out sentences
with other entities. Figures, all on held-out sentences:
  relation      accuracy among the 16 relations
  after         nats per token of the four tokens behind a mention, in sentences; other: of all other tokens
  hidden        nats per token of a hidden mention's own tokens
  entity_mrr    mean reciprocal rank of a hidden mention's entity among all entities of the data
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.fewrel import FewRel, Sentence, prepare
from benchmarks.evidence.harness import (
    Options,
    Panel,
    Record,
    Results,
    curve_panel,
    paired_difference,
    parse_options,
    plot,
    print_json,
    print_table,
    run_experiment,
)
from benchmarks.evidence.training import Losses, Training, device, fit, to_device
from rwtrain.config.schema import TrainConfig
from rwtrain.data.order import random_uint64
from rwtrain.data.packing import pack
from rwtrain.data.recipe import Batch, BatchBuilder, Recipe
from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.data.streams import TextStream
from rwtrain.data.tokenizer import MASK_ID
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import VECTORS_FOLDER, EntityStore
from rwtrain.knowledge.training import train_transe
from rwtrain.knowledge.transe import TransEConfig
from rwtrain.model.modeling_refinedweb import unit_rms
from rwtrain.objectives.contrastive import entity_info_nce

GRAPH = Path(__file__).resolve().parents[2] / "examples" / "data" / "fb15k237"
AFTER = 4  # tokens behind a mention that count as "after"
STREAM_QUESTION = 101
QUESTION_ROWS = 4  # per row of causal text
HIDDEN_WEIGHT, ENTITY_WEIGHT = 0.3, 0.3
FREQUENCIES = (0, 1, 2, 5, 10, 30)  # lower bounds of the bins of training mentions
BATCH_ROWS = 32
VARIANTS = ("true", "shuffled", "none")
HIGHER_IS_BETTER = ("relation_unseen", "relation_seen", "entity_mrr_unseen", "entity_mrr_seen")
LOWER_IS_BETTER = ("after_unseen", "after_seen", "hidden_unseen", "hidden_seen")


class Questions(TextStream):
    """Packed sentences read in both directions, each asked for its relation; of every other one with mentions, by chance, one is hidden."""

    def __init__(self, data: FewRel, *, seq_len: int, seed: int) -> None:
        super().__init__(data.plain["train"], pack(data.plain["train"].lengths, seq_len), seed=seed, masked=True, withhold=0.0, mask_rate=0.0)
        self.answers = [data.relations.index(sentence.relation) for sentence in data.sentences["train"]]
        self.asked: list[int] = []

    def batch(self, recipe: Recipe, step: int, vectors: np.ndarray | None) -> tuple[Batch, torch.Tensor]:
        """The sentences of a step, pooled one by one, and their relations [sentences]."""
        builder = BatchBuilder(recipe, 0)
        self.asked = []
        self.fill(builder, slice(0, recipe.rows), np.arange(recipe.rows), np.arange(step * recipe.rows, (step + 1) * recipe.rows))
        return builder.finish(vectors, {}), torch.tensor(self.asked)

    def _add(self, builder: BatchBuilder, row: int, position: int, segment: int) -> None:
        document = int(self.plan.document[segment])
        chance = int(random_uint64(self.seed, position * 4096 + segment, STREAM_QUESTION))
        place_sentence(builder, row, self.dataset, document, hidden=chance // 2 if chance % 2 else None, pool=len(self.asked))
        self.asked.append(self.answers[document])


def place_sentence(builder: BatchBuilder, row: int, dataset: ShardDataset, document: int, *, hidden: int | None, pool: int) -> None:
    """Place a sentence to be read in both directions and pooled, with its mentions' vectors.

    Args:
        hidden: this mention (modulo their number) is hidden, its tokens and entity are asked for, and no vector of its entity enters; None: none.
    """
    tokens = np.asarray(dataset.tokens(document), np.int64).copy()
    starts, ends, entities = dataset.mentions(document)
    known, asked = -1, -1
    if hidden is not None and len(starts):
        asked = hidden % len(starts)
        known = int(entities[asked])
    answer = tokens.copy()
    if asked >= 0:
        tokens[starts[asked] : ends[asked]] = MASK_ID
    at = builder.add_segment(row, tokens, block_tokens=len(tokens), pool=pool)
    for index, (begin, end, entity) in enumerate(zip(starts, ends, entities, strict=True)):
        if index == asked:
            builder.labels[row, at + begin : at + end] = answer[begin:end]
            builder.add_query(row, at + end - 1, known)
        elif entity != known:
            builder.add_mention(row, at + np.arange(begin, end), int(entity))


def read_batch(model: Any, batch: Batch, *, pools: int) -> Any:
    """The model's outputs of a batch of questions; every hidden token weighs the same, their loss is a mean."""
    labels = batch.labels
    inputs: dict[str, Any] = {"pool_ids": batch.pool_ids, "pool_slots": pools, "labels": labels}
    inputs["label_weights"] = torch.full(labels.shape, 1 / max(1, int((labels != -100).sum())), device=labels.device)
    if model.config.entity_dim:
        names = ("entity_embeds", "entity_positions", "query_embeds", "query_positions")
        inputs |= {name: getattr(batch, name) for name in names}
    return model(input_ids=batch.input_ids, position_ids=batch.position_ids, block_sequence_ids=batch.block_sequence_ids, **inputs)


def relation_logits(model: Any, out: Any) -> torch.Tensor:
    """Scaled cosines of the sentences' embeddings with the relations' vectors, [sentences, relations]."""
    return out.text_scale * (out.embeddings @ torch.nn.functional.normalize(model.relations.weight.float(), dim=1).T)


def losses(training: Training, model: Any, data: FewRel) -> Losses:
    """Next-token loss of the loader's text rows, then the questions' losses."""
    config = training.config.batch
    questions = Questions(data, seq_len=config.seq_len, seed=training.config.seed + 1)
    recipe = Recipe(config, 0, QUESTION_ROWS * config.text_rows, 0, 0, image_tokens=0, entity_dim=training.model_config.entity_dim)
    language = training.losses(model)

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        yield from language(step)
        batch, answers = questions.batch(recipe, step, training.inputs.vectors)
        batch, answers = to_device(batch), answers.to(device())
        out = read_batch(model, batch, pools=len(answers))
        relation = torch.nn.functional.cross_entropy(relation_logits(model, out), answers)
        named = {"relation": float(relation.detach()), "hidden": float(out.token_loss.detach())}
        total = relation + HIDDEN_WEIGHT * out.token_loss
        if out.entity_queries is not None:
            asked = (batch.query_positions >= 0).float().flatten()
            queries, keys = out.entity_queries.flatten(0, 1), out.entity_keys.flatten(0, 1)
            entity = entity_info_nce(queries, keys, batch.query_entities.flatten(), asked, out.entity_scale) / asked.sum().clamp(min=1)
            named["entity"] = float(entity.detach())
            total = total + ENTITY_WEIGHT * entity
        yield total, named

    return of_step


def configuration(options: Options, work: Path, seed: int, *, knowledge: bool) -> TrainConfig:
    """One shape, batch and schedule for all variants; without knowledge the model has neither gates nor entity heads."""
    width, layers, heads = options.choose((96, 3, 3), quick=(64, 3, 2), large=(512, 8, 8))
    steps = options.steps(200, quick=15, large=2000)
    data = {"text": str(work / "train-plain"), "tokenizer": str(work / "tokenizer.model")}
    return TrainConfig.model_validate(
        {
            "run": str(work),
            "steps": steps,
            "seed": seed,
            "data": data | ({"entity_store": str(work / "store")} if knowledge else {}),
            "model": {
                "hidden_size": width,
                "intermediate_size": width * 11 // 4,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "embedding_dim": 64,
                "max_position_embeddings": 512,
                "gate_layers": list(range(1, layers)),
            },
            "batch": {
                "seq_len": 128,
                "text_rows": options.choose(2, quick=2, large=32),
                "mentions_per_row": 32,
                "queries_per_row": 12,
                "withhold": 0.0,
            },
            "optimizer": {"learning_rate": options.choose(3e-3, quick=3e-3, large=1e-3), "warmup_steps": steps // 10, "beta2": 0.98},
        }
    )


def shuffled(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Every entity gets another's vector: a permutation without fixed points."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    source = np.empty(len(vectors), np.int64)
    source[order] = np.roll(order, 1)
    return np.asarray(vectors)[source]


def open_training(options: Options, work: Path, variant: str, seed: int) -> Training:
    """The training of one variant; its gates start half open, as the few steps could not open them from 2%."""
    config = configuration(options, work, seed, knowledge=variant != "none")
    vectors = None
    if variant == "shuffled":
        vectors = shuffled(EntityStore.open(work / "store").vectors, seed)
    training = Training.open(config, vectors=vectors)
    training.model_config.gate_bias_init = 0.0
    return training


class Judge:
    """Measures a model on held-out sentences, one sentence a row."""

    def __init__(self, training: Training, data: FewRel, *, limit: int | None) -> None:
        self.training, self.data, self.limit = training, data, limit
        self.knowledge = training.model_config.entity_dim > 0

    def sentences(self, split: str) -> list[Sentence]:
        return self.data.sentences[split][: self.limit]

    def _builder(self, rows: int, length: int) -> BatchBuilder:
        config = self.training.config.batch.model_copy(update={"seq_len": length})
        recipe = Recipe(config, rows, 0, 0, 0, image_tokens=0, entity_dim=self.training.model_config.entity_dim)
        return BatchBuilder(recipe, 0)

    def _batches(self, dataset: ShardDataset, count: int) -> Iterator[tuple[list[int], int]]:
        order = np.argsort(dataset.lengths[:count], kind="stable")
        for start in range(0, len(order), BATCH_ROWS):
            places = [int(place) for place in order[start : start + BATCH_ROWS]]
            yield places, int(dataset.lengths[places].max())

    def _finish(self, builder: BatchBuilder) -> Batch:
        return to_device(builder.finish(self.training.inputs.vectors, {}))

    def relation(self, model: Any, split: str) -> float:
        """Accuracy of the relation, with all mentions' vectors."""
        dataset, sentences = self.data.plain[split], self.sentences(split)
        right = 0
        for places, length in self._batches(dataset, len(sentences)):
            builder = self._builder(len(places), length)
            for row, place in enumerate(places):
                place_sentence(builder, row, dataset, place, hidden=None, pool=row)
            chosen = relation_logits(model, read_batch(model, self._finish(builder), pools=len(places))).argmax(1).tolist()
            right += sum(self.data.relations[best] == sentences[place].relation for best, place in zip(chosen, places, strict=True))
        return right / len(sentences)

    def causal(self, model: Any, split: str) -> dict[str, Any]:
        """Losses behind mentions and elsewhere, and the openness of every gate at every mention."""
        dataset = self.data.plain[split]
        after: list[float] = []
        other: list[float] = []
        gates: list[Any] = []
        for places, length in self._batches(dataset, len(self.sentences(split))):
            builder = self._builder(len(places), length)
            behind, inside = np.zeros((len(places), length), bool), np.zeros((len(places), length), bool)
            for row, place in enumerate(places):
                tokens = np.asarray(dataset.tokens(place), np.int64)
                builder.add_segment(row, tokens, block_tokens=0)
                inside[row, 1 : len(tokens)] = True
                for _, end, entity in zip(*dataset.mentions(place), strict=True):
                    builder.add_mention(row, np.array([end - 1]), int(entity))
                    behind[row, end : end + AFTER] = True
            batch = self._finish(builder)
            entities = {"entity_embeds": batch.entity_embeds, "entity_positions": batch.entity_positions} if self.knowledge else {}
            out = model.model(input_ids=batch.input_ids, position_ids=batch.position_ids, block_sequence_ids=batch.block_sequence_ids, **entities)
            logits = model.lm_head(out.last_hidden_state[:, :-1]).float()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="none")
            losses_BS = losses.view(len(places), -1).cpu().numpy()
            after += losses_BS[(behind & inside)[:, 1:]].tolist()
            other += losses_BS[(~behind & inside)[:, 1:]].tolist()
            if out.gates is not None:
                open_LBM = 1 - torch.stack([gate.float().mean(-1) for gate in out.gates]).cpu().numpy()
                filled = builder.entity_positions >= 0
                gates += list(zip(self.data.frequency[builder.entity_rows[filled]].tolist(), open_LBM[:, filled].T.tolist(), strict=True))
        return {"after": float(np.mean(after)), "other": float(np.mean(other)), "gates": gates}

    def hidden(self, model: Any, split: str) -> dict[str, float]:
        """Loss of the hidden mention's tokens and the rank of its entity; the hidden mention is the first of FewRel's own in the sentence."""
        dataset, sentences = self.data.plain[split], self.sentences(split)
        table = None
        if self.knowledge:
            vectors = torch.from_numpy(np.asarray(self.training.inputs.vectors[self.data.candidates])).to(device())  # type: ignore[index]
            table = torch.nn.functional.normalize(model.entity_key(unit_rms(vectors)).float(), dim=-1)
        losses: list[float] = []
        ranks: list[int] = []
        for places, length in self._batches(dataset, len(sentences)):
            builder = self._builder(len(places), length)
            for row, place in enumerate(places):
                given = [span.given for span in sentences[place].spans]
                place_sentence(builder, row, dataset, place, hidden=given.index(True), pool=row)
            out = read_batch(model, self._finish(builder), pools=len(places))
            losses += out.token_losses.tolist()
            if table is not None:
                scores = out.entity_queries[:, 0] @ table.T
                target = torch.from_numpy(np.searchsorted(self.data.candidates, builder.query_rows[:, 0])).to(scores.device)
                ranks += (1 + (scores > scores.gather(1, target[:, None])).sum(1)).tolist()
        found = {"hidden": float(np.mean(losses))}
        return found | ({"entity_mrr": float(np.mean(1 / np.array(ranks)))} if ranks else {})

    def figures(self, model: Any) -> tuple[dict[str, float], list[Any]]:
        """All figures, and (training mentions of the entity, openness by layer) of every test mention."""
        figures: dict[str, float] = {}
        gates: list[Any] = []
        for split in ("unseen", "seen"):
            causal = self.causal(model, split)
            gates += causal.pop("gates")
            found = {"relation": self.relation(model, split), **causal, **self.hidden(model, split)}
            figures |= {f"{name}_{split}": value for name, value in found.items()}
        return figures, gates


def openness(gates: list[Any], layers: list[int]) -> dict[str, list[list[float]]]:
    """By layer: (lower bound of the frequency bin, mean 1 − g) of the bins that have mentions."""
    if not gates:
        return {}
    frequency, opened = np.array([entry[0] for entry in gates]), np.array([entry[1] for entry in gates])
    bins = np.searchsorted(FREQUENCIES, frequency, side="right") - 1
    return {
        f"layer {layer}": [[FREQUENCIES[bin_], float(opened[bins == bin_, index].mean())] for bin_ in np.unique(bins)] for index, layer in enumerate(layers)
    }


def prepare_data(options: Options) -> tuple[Path, FewRel, dict[str, Any]]:
    """Import the graph, train TransE, build the linker, link and write shards; (folder, data, a description)."""
    work = options.out / f"knowledge-data{'-large' if options.large else ''}"
    dimension, epochs = options.choose((64, 8), quick=(64, 8), large=(256, 30))
    with contextlib.redirect_stdout(io.StringIO()):
        if not (work / "store" / MANIFEST).is_file():
            import_tsv(GRAPH, work / "store")
        if not (work / "store" / VECTORS_FOLDER / MANIFEST).is_file():
            train_transe(
                EntityStore.open(work / "store"), TransEConfig(dimension=dimension, epochs=epochs, negatives=256, evaluate_every=epochs), progress=False
            )
        store = EntityStore.open(work / "store")
        if not (work / "linker").is_dir():
            build_linker(store, work / "linker")
    data = prepare(options.data, work, store, work / "linker", vocab_size=4096)
    description = {
        "entities": len(store),
        "transe_dimension": dimension,
        "sentences": {split: len(found) for split, found in data.sentences.items()},
        "mentions": {split: sum(len(sentence.spans) for sentence in found) for split, found in data.sentences.items()},
        "training_entities": int((data.frequency > 0).sum()),
        "candidates": len(data.candidates),
    }
    return work, data, description


def gate_panel(results: Results, variant: str) -> Panel:
    """Openness of the gates by the number of training mentions of the entity, one line a layer."""
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for record in results[variant]:
        for layer, points in record["openness"].items():
            lines.setdefault(layer, []).append([(1 + x, y) for x, y in points])
    return Panel(f"openness of gates, {variant} vectors", "1 + training mentions of the entity", "mean 1 − g", lines, log_x=True)


def main() -> None:
    options = parse_options(__doc__ or "")
    work, data, description = prepare_data(options)
    print(json.dumps(description))

    def train(settings: Mapping[str, Any], seed: int) -> Record:
        training = open_training(options, work, settings["vectors"], seed)
        judge = Judge(training, data, limit=64 if options.quick else None)
        early = Judge(training, data, limit=64 if options.quick else 200)
        model = training.build_model()
        torch.manual_seed(seed)
        model.relations = torch.nn.Linear(training.model_config.embedding_dim, len(data.relations), bias=False).to(device())
        steps = training.config.steps

        def progress(model: Any) -> dict[str, float]:
            found = {"relation_unseen": early.relation(model, "unseen")}
            if training.model_config.entity_dim:
                found["entity_mrr_unseen"] = early.hidden(model, "unseen")["entity_mrr"]
            return found

        curve = fit(model, losses(training, model, data), training.config.optimizer, steps=steps, seed=seed, evaluate=progress, every=max(1, steps // 2))
        with torch.no_grad():
            figures, gates = judge.figures(model.eval())
        return {"figures": figures, "curve": curve, "openness": openness(gates, training.model_config.gate_layers)}

    results = run_experiment("knowledge", options, {name: {"vectors": name} for name in VARIANTS}, train)
    for group in (HIGHER_IS_BETTER, (*LOWER_IS_BETTER, "other_unseen", "other_seen")):
        print_table(results, {name: name for name in group})
    gains = {name: paired_difference(results, "true", "shuffled", name) for name in HIGHER_IS_BETTER}
    gains |= {name: paired_difference(results, "shuffled", "true", name) for name in LOWER_IS_BETTER}
    print("\ntrue against shuffled vectors, by seed (positive: true is better)")
    for name, gain in gains.items():
        print(f"{name:22}{gain['mean']:+.4f} ± {gain['std']:.4f}")
    panels = [
        curve_panel(results, "relation_unseen", title="relation, unseen entities", y="accuracy"),
        curve_panel(results, "entity_mrr_unseen", title="hidden mention's entity, unseen", y="mean reciprocal rank"),
        gate_panel(results, "true"),
        gate_panel(results, "shuffled"),
    ]
    print(f"plot: {plot('knowledge', options, panels, columns=2)}")
    print_json("knowledge", options, results, data=description, true_over_shuffled=gains)


if __name__ == "__main__":
    main()
