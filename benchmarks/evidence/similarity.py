"""Sentence similarity from scratch: STS-B dev after contrastive training on its training pairs and unlabelled text only.

    python -m benchmarks.evidence.similarity --data DIR [--quick | --large] [--seeds N]

Everything is learned here: tokenizer and weights. What is compared:
  language         next-token loss on WikiText-2, no contrast: does training on text as such help the pooled states?
  adjacent         InfoNCE between two adjacent spans of a WikiText-2 article, temperature 0.05 as in all others; soft: 0.5
  views of spans   InfoNCE between two copies of such a span with 30% of the tokens left out, each on its own
  views            the same with sentences: STS-B's training sentences and captions of Multi30k
  views + scores   besides, a ranking loss on the scores of the training pairs (CoSENT: log(1 + Σ exp(20 (cos_j − cos_i))) over pairs i scored above j)
750 of the 5,749 training pairs are held out: settings were chosen on them; dev is for reporting. Besides Spearman's correlation: the mean cosine of
unrelated sentences and the number of effective dimensions (Σλ)²/Σλ² of the embeddings' covariance, and the correlation after their mean is
subtracted, to see what a training does to the space. Baseline: scikit-learn's TF-IDF cosine, fitted to the training sentences.
"""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.harness import Options, Record, curve_panel, parse_options, plot, print_json, print_table, run_experiment
from benchmarks.evidence.texts import make_tokenizer, wikitext_articles
from benchmarks.evidence.training import Losses, build_model, device, fit
from rwtrain.config.schema import OptimizerConfig
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID, PAD_ID, Tokenizer
from rwtrain.evaluate.model import batches_by_length, pad_rows
from rwtrain.evaluate.similarity import pearson, ranks, read_pairs
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.contrastive import two_view_info_nce

HELD_OUT = 750
DROPPED = 0.3  # share of the tokens that a view leaves out
SPAN = 31  # tokens of a span of an article
LONGEST = 48  # tokens of a training sentence
COSENT_SCALE = 20.0
CAPTIONS = 10_000
TOKENS_PER_BATCH = 8192

Rows = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentence pairs as token rows that begin with the begin mark, and people's scores."""

    first: Rows
    second: Rows
    scores: np.ndarray

    def take(self, places: np.ndarray) -> Pairs:
        return Pairs([self.first[place] for place in places], [self.second[place] for place in places], self.scores[places])


@dataclasses.dataclass(frozen=True)
class Data:
    """All texts as token rows; `words` are the raw pairs, for the baseline."""

    tokenizer: Tokenizer
    train: Pairs
    held_out: Pairs
    dev: Pairs
    sentences: Rows
    articles: Rows
    words: dict[str, tuple[list[str], list[str], np.ndarray]]


def normal(text: str) -> str:
    """Lower case behind a space, so that a word has one form wherever it stands."""
    return " " + text.strip().lower()


def read_data(options: Options) -> Data:
    """Read the pairs, the captions and WikiText-2; train the tokenizer on the training sentences, the captions and a quarter of WikiText-2."""
    files = {split: options.data / "stsb-multi" / f"stsb-en-{split}.csv.gz" for split in ("train", "dev")}
    words = {split: read_pairs(path) for split, path in files.items()}
    with gzip.open(options.data / "multi30k" / "train.en.gz", "rt", encoding="utf-8") as stream:
        captions = stream.read().splitlines()
    articles = wikitext_articles(options.data, "train")
    train_words = [*words["train"][0], *words["train"][1]]
    tokenizer = make_tokenizer(
        options.out / "similarity-data" / "tokenizer.model", lambda: map(normal, [*train_words, *captions, *articles[::4]]), vocab_size=8192
    )

    def rows(texts: Sequence[str]) -> Rows:
        return [np.concatenate(([BOS_ID], ids)) for ids in tokenizer.encode_batch([normal(text) for text in texts])]

    pairs = {split: Pairs(rows(first), rows(second), scores) for split, (first, second, scores) in words.items()}
    order = held_out_order(len(pairs["train"].scores))
    train = pairs["train"].take(order[HELD_OUT:])
    chosen = np.random.default_rng(1).permutation(len(captions))[:CAPTIONS]
    sentences = [*train.first, *train.second, *rows([captions[place] for place in chosen])]
    long = [row for row in rows(articles) if len(row) > 2 * SPAN + 1]
    return Data(tokenizer, train, pairs["train"].take(order[:HELD_OUT]), pairs["dev"], sentences, long, words)


def held_out_order(pairs: int) -> np.ndarray:
    """The training pairs in random order; the first `HELD_OUT` are held out."""
    return np.random.default_rng(0).permutation(pairs)


def tfidf_correlations(data: Data) -> dict[str, float]:
    """Spearman's correlation of TF-IDF cosines with the scores, on dev and on the held-out pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import paired_cosine_distances

    first, second, scores = data.words["train"]
    vectorizer = TfidfVectorizer().fit([*first, *second])

    def correlation(first: list[str], second: list[str], scores: np.ndarray) -> float:
        return pearson(ranks(1 - paired_cosine_distances(vectorizer.transform(first), vectorizer.transform(second))), ranks(scores))

    places = held_out_order(len(scores))[:HELD_OUT]
    held_out = ([first[place] for place in places], [second[place] for place in places], scores[places])
    return {"dev": correlation(*data.words["dev"]), "held_out": correlation(*held_out)}


def embed(model: RefinedWebForPreTraining, rows: Rows) -> torch.Tensor:
    """L2-normalised embeddings [rows, C] of rows of any lengths."""
    input_ids, mask = pad_rows(rows)
    return model.get_text_features(input_ids.to(device()), mask.to(device()))


def embed_all(model: RefinedWebForPreTraining, rows: Rows) -> np.ndarray:
    """The same without gradient, in batches of similar lengths."""
    found = np.zeros((len(rows), model.config.embedding_dim), np.float32)
    for places in batches_by_length([len(row) for row in rows], TOKENS_PER_BATCH):
        found[places] = embed(model, [rows[place] for place in places]).float().cpu().numpy()
    return found


def judge(model: RefinedWebForPreTraining, pairs: Pairs) -> dict[str, float]:
    """Correlations and what the space looks like."""
    vectors = embed_all(model, [*pairs.first, *pairs.second]).astype(np.float64)
    count = len(pairs.scores)
    centred = vectors - vectors.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)
    shares = np.linalg.eigvalsh(np.cov(vectors.T))

    def correlation(vectors: np.ndarray) -> float:
        return pearson(ranks((vectors[:count] * vectors[count:]).sum(1)), ranks(pairs.scores))

    return {
        "spearman": correlation(vectors),
        "centred": correlation(centred),
        "unrelated_cosine": float((vectors[:count] * np.roll(vectors[count:], count // 2, axis=0)).sum(1).mean()),
        "dimensions": float(shares.sum() ** 2 / (shares**2).sum()),
    }


def cosent(first: torch.Tensor, second: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """log(1 + Σ exp(s (cos_j − cos_i))) over all pairs i, j of the batch with score i > score j (Su 2022); a scalar."""
    cosines = COSENT_SCALE * (first * second).sum(1)
    difference = (cosines[None, :] - cosines[:, None])[scores[:, None] > scores[None, :]]
    return torch.logsumexp(torch.cat((difference.new_zeros(1), difference)), 0)


def view(row: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A copy with some of its tokens left out, never the begin mark and never all others."""
    kept = draw.random(len(row)) >= DROPPED
    kept[0] = True
    return row[kept] if kept.sum() > 2 else row


def two_views(source: str, data: Data, items: int, draw: np.random.Generator) -> tuple[Rows, Rows, np.ndarray]:
    """(first views, second views, content ids) of random items: views of one sentence, or of one article."""
    if source == "views":
        places = draw.integers(len(data.sentences), size=items)
        rows = [data.sentences[place][:LONGEST] for place in places]
        return [view(row, draw) for row in rows], [view(row, draw) for row in rows], places
    first: Rows = []
    second: Rows = []
    places = draw.integers(len(data.articles), size=items)
    for place in places:
        article = data.articles[place]
        start = 1 + int(draw.integers(len(article) - 2 * SPAN))
        spans = [np.concatenate(([BOS_ID], article[begin : begin + SPAN])) for begin in (start, start + SPAN)]
        if source == "views of spans":
            spans = [view(spans[0], draw), view(spans[0], draw)]
        first.append(spans[0])
        second.append(spans[1])
    return first, second, places


def contrast_losses(model: RefinedWebForPreTraining, data: Data, settings: Mapping[str, Any], seed: int) -> Losses:
    """InfoNCE between two views at a fixed temperature, and the ranking loss on scores where it has a weight."""

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        draw = np.random.default_rng([seed, step])
        items = settings["items"]
        first, second, content = two_views(settings["source"], data, items, draw)
        features = embed(model, [*first, *second])
        scale = features.new_full((1,), 1 / settings["temperature"])
        ids, valid = torch.from_numpy(content).to(device()), torch.ones(items, device=device())
        loss = two_view_info_nce(features[:items], features[items:], ids, valid, scale) / items
        named = {"contrast": float(loss.detach())}
        total = loss
        if settings["scores"]:
            batch = data.train.take(draw.choice(len(data.train.scores), size=items // 2, replace=False))
            graded = embed(model, [view(row[:LONGEST], draw) for row in (*batch.first, *batch.second)])
            ranking = cosent(graded[: items // 2], graded[items // 2 :], torch.from_numpy(batch.scores).to(device()))
            named["ranking"] = float(ranking.detach())
            total = total + settings["scores"] * ranking
        yield total, named

    return of_step


def language_losses(model: RefinedWebForPreTraining, data: Data, settings: Mapping[str, Any], seed: int) -> Losses:
    """Next-token loss on spans of articles, as many tokens as the contrasts read."""

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        draw = np.random.default_rng([seed, step])
        first, second, _ = two_views("adjacent", data, settings["items"], draw)
        input_ids = torch.from_numpy(np.stack([np.concatenate((one, other[1:])) for one, other in zip(first, second, strict=True)])).to(device())
        weights = torch.full(input_ids.shape, 1 / input_ids[:, 1:].numel(), device=device())
        none = torch.full_like(input_ids, -1)
        positions = torch.arange(input_ids.shape[1], device=device()).expand_as(input_ids)
        out = model(input_ids=input_ids, position_ids=positions, block_sequence_ids=none, labels=input_ids, label_weights=weights, pool_ids=none, pool_slots=1)
        yield out.token_loss, {"language": float(out.token_loss.detach())}

    return of_step


def shape(options: Options, data: Data) -> RefinedWebConfig:
    """The encoder: a wide embedding, few layers."""
    width, layers, heads = options.choose((128, 1, 4), quick=(64, 1, 2), large=(512, 4, 8))
    return RefinedWebConfig(
        vocab_size=data.tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        embedding_dim=width,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        mask_token_id=MASK_ID,
        image_token_id=IMAGE_ID,
    )


def variants(options: Options) -> dict[str, dict[str, Any]]:
    """Settings of each variant; the first four are there to explain, with fewer steps."""
    few, many = options.steps(30, quick=8, large=1000), options.steps(120, quick=8, large=3000)
    contrast = {"temperature": 0.05, "scores": 0.0, "items": options.choose(64, quick=16, large=512)}
    main = contrast | {"steps": many, "items": options.choose(128, quick=16, large=512)}
    return {
        "language": {"source": "language", "steps": few, "items": contrast["items"]},
        "adjacent": contrast | {"source": "adjacent", "steps": few},
        "adjacent, soft": contrast | {"source": "adjacent", "steps": few, "temperature": 0.5},
        "views of spans": contrast | {"source": "views of spans", "steps": few},
        "views": main | {"source": "views"},
        "views + scores": main | {"source": "views", "scores": 0.1},
    }


def train_variant(options: Options, data: Data, settings: Mapping[str, Any], seed: int) -> Record:
    """Train one variant; its figures are of dev at the end, those of the held-out pairs are in the curve."""
    model = build_model(shape(options, data), seed=seed)
    make: Callable[..., Losses] = language_losses if settings["source"] == "language" else contrast_losses
    with torch.no_grad():
        start = {"step": 0, **judge(model.eval(), data.held_out)}
        untrained = judge(model, data.dev)["spearman"]
    optimizer = OptimizerConfig(learning_rate=2e-3, warmup_steps=10, schedule="linear", min_learning_rate_ratio=0.01, weight_decay=0.01, beta2=0.98)
    steps = settings["steps"]
    curve = fit(
        model,
        make(model, data, settings, seed),
        optimizer,
        steps=steps,
        seed=seed,
        evaluate=lambda model: judge(model, data.held_out),
        every=max(1, steps // 4),
    )
    with torch.no_grad():
        found = judge(model.eval(), data.dev)
    return {"figures": {**found, "held_out": curve[-1]["spearman"], "untrained": untrained}, "curve": [start, *curve]}


def main() -> None:
    options = parse_options(__doc__ or "")
    data = read_data(options)
    tfidf = tfidf_correlations(data)
    print(f"TF-IDF cosine: {tfidf['dev']:.4f} on dev, {tfidf['held_out']:.4f} on the held-out pairs")
    results = run_experiment("similarity", options, variants(options), lambda settings, seed: train_variant(options, data, settings, seed))
    columns = {"spearman": "dev Spearman", "untrained": "untrained", "held_out": "held out", "centred": "dev, centred"}
    print_table(results, columns | {"unrelated_cosine": "unrelated cosine", "dimensions": "dimensions"})
    panels = [
        curve_panel(results, "spearman", title="held-out pairs", y="Spearman's correlation"),
        curve_panel(results, "unrelated_cosine", title="cosine of unrelated sentences", y="mean cosine"),
        curve_panel(results, "dimensions", title="effective dimensions", y="(Σλ)² / Σλ²"),
    ]
    print(f"plot: {plot('similarity', options, panels)}")
    print_json("similarity", options, results, tfidf_spearman=tfidf)


if __name__ == "__main__":
    main()
